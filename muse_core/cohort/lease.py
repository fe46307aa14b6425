"""One writer a folder of an object store: a lease whose holder gives signs of life, taken over when it is silent.

    OUT/.lease/000001.json, 000002.json, ...      the highest number holds the folder

A lease is taken by creating the next number, which a store lets one caller do. Numbers only grow: a holder that was
silent for too long, and is superseded, finds a higher number and ends.
"""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Event
from typing import Any

from muse_core.cohort.heartbeat import SILENT_S, WATCH_S, RunFacts
from muse_core.cohort.objects import ObjectFolder
from muse_core.errors import OutputError

FOLDER = ".lease"
_WATCH_S = WATCH_S  # of its own, for tests
_DIGITS = 6


class Lease:
    """The right to write into a folder of an object store; `take` it first, `release` it at the end.

    Args:
        folder: of the store.
        wait: waits for so many seconds; told apart in tests.
    """

    def __init__(self, folder: ObjectFolder, wait: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._wait = wait
        self._token = secrets.token_hex(8)
        self._number = 0
        self._lost = Event()

    def take(self, facts: RunFacts) -> None:
        """Become the folder's one writer.

        Args:
            facts: who wants to write.

        Raises:
            OutputError: another run writes there (reason output_locked), or the store cannot be written.
        """
        held = self._highest()
        if held:
            holder = self._folder.read(_name(held))
            if self._lives(holder):
                raise self._refused(_facts(holder))
            if holder is not None and not _is_released(holder):
                known = _facts(holder)
                if known is None or not known.is_gone():
                    self._wait(_WATCH_S)
                if self._folder.read(_name(held)) != holder:
                    raise self._refused(_facts(holder))
        if not self._folder.create(_name(held + 1), self._text(facts)):
            raise self._refused(None)
        self._number = held + 1
        self._folder.delete(_name(number) for number in self._numbers() if number < self._number)

    def beat(self, facts: RunFacts) -> None:
        """Give a sign of life, unless another run has taken over.

        Raises:
            OutputError: the store cannot be written.
        """
        if not self._is_mine():
            self._lost.set()
        if not self._lost.is_set():
            self._folder.write(_name(self._number), self._text(facts))

    def check(self) -> None:
        """Make sure that the folder is still this run's, before it is changed.

        Raises:
            OutputError: another run has taken over (reason output_lost).
        """
        if not self._lost.is_set() and not self._is_mine():
            self._lost.set()
        if self._lost.is_set():
            raise OutputError(
                f"{self._folder.url}: this run was silent for so long that another one has taken over; it goes on "
                "from what is done, nothing is to be mended",
                reason="output_lost",
            )

    def release(self) -> None:
        """Let others write; the number stays, so that numbers only grow."""
        if not self._lost.is_set() and self._is_mine():
            self._folder.write(_name(self._number), json.dumps({"released": True, "by": self._token}).encode())

    def _is_mine(self) -> bool:
        return self._highest() == self._number

    def _lives(self, holder: bytes | None) -> bool:
        facts = _facts(holder)
        return facts is not None and not facts.is_gone() and time.time() - facts.beat < SILENT_S

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        names = (name.removeprefix(f"{FOLDER}/").removesuffix(".json") for name in self._folder.states(FOLDER))
        return [int(name) for name in names if name.isdigit()]

    def _text(self, facts: RunFacts) -> bytes:
        return json.dumps({**asdict(facts), "beat": time.time(), "by": self._token}).encode()

    def _refused(self, holder: RunFacts | None) -> OutputError:
        who = f" (process {holder.pid} on {holder.host})" if holder is not None else ""
        return OutputError(
            f"{self._folder.url}: another run{who} is writing here; wait for it to end or give another --out",
            reason="output_locked",
        )


def holder_of(folder: ObjectFolder) -> RunFacts | None:
    """The run that works in a folder, or that was cut off there; None where there is none.

    Raises:
        OutputError: the store cannot be read.
    """
    names = sorted(folder.states(FOLDER))
    return _facts(folder.read(names[-1])) if names else None


def _name(number: int) -> str:
    return f"{FOLDER}/{number:0{_DIGITS}d}.json"


def _values(holder: bytes | None) -> dict[str, Any]:
    try:
        values = json.loads(holder or b"{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _facts(holder: bytes | None) -> RunFacts | None:
    values = _values(holder)
    values.pop("by", None)
    try:
        return RunFacts(**values)
    except TypeError:
        return None


def _is_released(holder: bytes) -> bool:
    return bool(_values(holder).get("released"))
