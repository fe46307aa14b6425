"""The journal of a lab folder: every mark is a line, appended and flushed to disk before it is answered.

Several servers may write into one journal; each line is written at once, under a lock that dies with its process. A
line that a killed server left unfinished was never answered: it is passed over, and its page sends it again.
"""

import json
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from muse_core.errors import OutputError
from muse_core.machine.files import output_errors
from muse_core.viewer.marks import Entry, SentMark

logger = logging.getLogger(__name__)

JOURNAL_NAME = "journal.jsonl"
_WAIT_S = 10.0


class Journal:
    """All marks of a lab folder, in the order they came. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: the lab's; made when the first mark comes."""
        self._path = folder / JOURNAL_NAME
        self._lock = threading.RLock()
        self._read_bytes = 0
        self._entries: list[Entry] = []
        self._ids: set[str] = set()

    def entries(self, *, after: int = 0) -> list[Entry]:
        """All entries after the one of a number, those of other servers too."""
        with self._lock:
            self._read_on()
            return self._entries[after:]

    def append(self, sent: Iterable[SentMark], who: str) -> list[Entry]:
        """Keep marks; those whose id is known already are not kept again.

        Args:
            sent: what a page sent.
            who: whose marks they are.

        Returns:
            The entries as kept, those known already among them.

        Raises:
            OutputError: the folder cannot be written, the disk is full, or another server holds the journal.
        """
        sent = list(sent)
        with output_errors(self._path), self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(self._path.with_name(".journal.lock"), timeout=_WAIT_S):
                    self._read_on()
                    self._write([one for one in sent if one.id not in self._ids], who)
                    self._read_on()
            except Timeout:
                raise OutputError(f"{self._path}: another server holds it; try again", reason="output_locked") from None
        wanted = {one.id for one in sent}
        return [entry for entry in self._entries if entry.id in wanted]

    def _write(self, fresh: Sequence[SentMark], who: str) -> None:
        if not fresh:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        first = len(self._entries) + 1
        lines = [
            Entry(n=first + index, at=at, who=who, id=one.id, mark=one.mark).model_dump_json() + "\n"
            for index, one in enumerate(fresh)
        ]
        with self._path.open("ab", buffering=0) as file:
            # What a killed server left unfinished ends here.
            torn = file.tell() > self._read_bytes
            file.write(("\n" * torn + "".join(lines)).encode())
            os.fsync(file.fileno())

    def _read_on(self) -> None:
        """Take up whole lines that have come since."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                text = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = text.rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = Entry.model_validate({**json.loads(line), "n": len(self._entries) + 1})
        except (ValueError, TypeError, ValidationError):
            if line.strip():
                logger.warning("%s: a line that was not finished is passed over: %.60r", self._path, line)
            return
        self._entries.append(entry)
        self._ids.add(entry.id)
