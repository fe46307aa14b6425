"""A run's signs of life in its output folder: who works there, since when, on how much; readable from any machine."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

import psutil

from muse_core.machine.files import whole_file

EVERY_S = 10.0
SILENT_S = 60.0  # a run that is silent for so long is gone: its machine, or the way to the folder
WATCH_S = 2.5 * EVERY_S  # clocks differ between machines: a run that seems silent is watched for so long
_CLOCK_S = 1.0  # the kernel counts a process' start in ticks


@dataclass(frozen=True)
class RunFacts:
    """One run over a folder.

    Attributes:
        command: which of `muse` it is.
        host: the machine.
        pid: the process there.
        started: seconds since 1970.
        slides: in its manifest; 0 while that is not known.
        workers: who does the work, in words.
        beat: its last sign of life, seconds since 1970.
        kernel: the running kernel and the processes that `pid` counts among: containers and restored machines may share
            a host's name. "" where there is none.
        rules: of a run that shares its folder, what its rows depend on besides the slides; "" while that is not known.
        shares: whether it shares its folder with others like it.
    """

    command: str
    host: str
    pid: int
    started: float
    slides: int
    workers: str
    beat: float
    kernel: str = ""
    rules: str = ""
    shares: bool = False

    def is_of_here(self) -> bool:
        """Whether `pid` is a number of a process that is or was beside this one."""
        return bool(self.kernel) and self.kernel == own_kernel()

    def is_gone(self) -> bool:
        """Whether it was a process beside this one that is no more; its number may be another's by now."""
        if not self.is_of_here():
            return False
        try:
            return bool(psutil.Process(self.pid).create_time() > self.started + _CLOCK_S)
        except psutil.Error:
            return True

    def lives(self, now: float) -> bool:
        """Whether it was heard of lately, `now` being seconds since 1970; a process beside this one, whether it is."""
        if self.is_of_here():
            return Path(f"/proc/{self.pid}").exists()
        return now - self.beat < SILENT_S


class Heartbeat:
    """Writes `RUN.json` again and again for the length of a block, and takes it away at its end; a kill leaves it.

    Args:
        path: the file.
        facts: who works.
        also: given the same again and again, where others look for it.
    """

    def __init__(self, path: Path, facts: RunFacts, also: Callable[[RunFacts], None] | None = None) -> None:
        self._path = path
        self._facts = facts
        self._also = also
        self._ended = Event()
        self._thread = Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    @property
    def facts(self) -> RunFacts:
        """Who works."""
        return self._facts

    def expect(self, slides: int) -> None:
        """The run is over so many slides."""
        self._facts = replace(self._facts, slides=slides)
        self._write()

    def work_with(self, workers: str) -> None:
        """Who does the work, in words."""
        self._facts = replace(self._facts, workers=workers)
        self._write()

    def follow(self, rules: str) -> None:
        """What its rows depend on besides the slides, for runs that share the folder."""
        self._facts = replace(self._facts, rules=rules)
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self._write()
            except OSError:
                continue  # a full disk ends the run where it matters, with its reason

    def _write(self) -> None:
        with whole_file(self._path) as file:
            file.write_text(json.dumps({**asdict(self._facts), "beat": time.time()}), encoding="utf-8")
        if self._also is not None:
            self._also(self._facts)


def own_facts(command: str, workers: str) -> RunFacts:
    """Of a run of this process that begins now.

    Args:
        command: which of `muse` it is.
        workers: who does the work, in words.
    """
    now = time.time()
    return RunFacts(command, socket.gethostname(), os.getpid(), now, 0, workers, now, own_kernel())


def own_kernel() -> str:
    """This boot of the machine and this process' pid namespace; "" where the system does not tell (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def read_run(path: Path) -> RunFacts | None:
    """The run that works in a folder, or that was cut off there; None where there is none."""
    try:
        return RunFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
