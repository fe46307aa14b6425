"""The unfinished file of a download: resumed only where it is surely the same source, verified before it is renamed."""

import json
import logging
import os
from pathlib import Path
from typing import Self

from muse_core.cohort.acquire.retry import TransientError
from muse_core.errors import OutputError
from muse_core.machine.files import as_output_error, new_md5, whole_file

_log = logging.getLogger(__name__)
_READ_BYTES = 2**22


class PartialFile:
    """`NAME.part`, with `NAME.part.json` that says of what it is a part; use as a context manager.

    Attributes:
        size: bytes had so far.
        validator: what the source said identifies these very bytes (an ETag, ...); None where it said nothing.
    """

    def __init__(self, target: Path, source_key: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note_path = target.with_name(target.name + ".part.json")
        self.source_key = source_key
        self.size = 0
        self.validator: str | None = None
        self._md5 = new_md5()

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.target.unlink(missing_ok=True)  # damaged or of another version; not to take the room of two slides
            self._file = self.path.open("ab", buffering=0)  # unbuffered: what a killed run had written is there
        except OSError as error:
            raise output_error(error, self.path) from error
        if self._load_note():
            self._hash_what_is_there()
        else:
            self.restart(None)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises:
            OutputError: the disk is full or fails; on a full disk the part is given up, so that others can go on.
        """
        rest = memoryview(data)
        try:
            while rest:
                written = self._file.write(rest)
                self._md5.update(rest[:written])
                self.size += written
                rest = rest[written:]
        except OSError as error:
            failure = output_error(error, self.path)
            if failure.reason == "disk_full":
                self.restart(None)
            raise failure from error

    def restart(self, validator: str | None) -> None:
        """Throw away what is there; what comes next is identified by `validator`."""
        self._file.truncate(0)
        self.size, self._md5, self.validator = 0, new_md5(), validator
        if validator is None:
            self.note_path.unlink(missing_ok=True)
        self._write_note()

    def finish(self, *, size: int | None, md5: str | None) -> str:
        """Verify the whole, give it its name, and return its md5.

        Raises:
            TransientError: size_mismatch or checksum_mismatch; the part is thrown away.
        """
        digest = self._md5.hexdigest()
        if size is not None and self.size != size:
            found = self.size
            self.restart(None)
            raise TransientError(f"got {found} bytes instead of {size}", reason="size_mismatch")
        if md5 is not None and digest != md5:
            self.restart(None)
            raise TransientError(f"got md5 {digest} instead of {md5}", reason="checksum_mismatch")
        try:
            os.fsync(self._file.fileno())
            self.path.replace(self.target)
        except OSError as error:
            raise output_error(error, self.target) from error
        self.note_path.unlink(missing_ok=True)
        return digest

    def _load_note(self) -> bool:
        """Whether what is there is a part of this source."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            if note["source"] != self.source_key:
                return False
            self.validator = note["validator"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or torn by a crash: nothing to build on
            return False
        return True

    def _write_note(self) -> None:
        note = {"source": self.source_key, "validator": self.validator}
        with whole_file(self.note_path) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def _hash_what_is_there(self) -> None:
        with self.path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                self._md5.update(data)
                self.size += len(data)
        if self.size:
            _log.info("%s: going on after %d bytes", self.path.name, self.size)


def output_error(error: OSError, path: Path) -> OutputError:
    """Any failed write as an OutputError, with the disk's own words where they mean neither full nor read-only."""
    failure = as_output_error(error, path)
    return failure if isinstance(failure, OutputError) else OutputError(f"{path}: cannot be written: {error}")
