"""Many slides through little disk: slots of one slide each, shared by the threads and processes of a machine."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore, Event
from types import TracebackType
from typing import Self, TypeVar

from filelock import FileLock, Timeout

from muse_core.cohort.acquire.fetch import Acquired, acquire, local_path
from muse_core.cohort.acquire.partial import output_error
from muse_core.cohort.acquire.settings import AcquireSettings
from muse_core.cohort.source import SlideSource
from muse_core.errors import AcquireError, OutputError
from muse_core.machine.files import safe_name

_POLL_S = 0.05  # how soon a freed slot is noticed; small beside fetching a slide

AnySource = TypeVar("AnySource", bound=SlideSource)


class SlideStore:
    """Slides for a while: `with store.slide(row) as acquired: ...`; usable from many threads.

    Without kept slides, a slide to be fetched takes one of `max_slides_on_disk` slots before its first byte comes, and
    is deleted when its block ends; where all slots are taken, `slide` waits. A slot is a folder with a lock file beside
    it, so the bound holds over all processes that share the folder, and what a killed run left in a slot is resumed or
    replaced, never added to. Local files are used in place: they take no slot and are never deleted.

    With kept slides nothing is deleted, and a slide that is there whole is not fetched again.
    """

    def __init__(
        self,
        folder: Path,
        settings: AcquireSettings | None = None,
        *,
        keep: bool = True,
        max_slides_on_disk: int | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings or AcquireSettings()
        self.keep = keep
        self._slots = folder / ".slots"  # no slide's folder has a name that starts with a dot
        self.max_slides_on_disk = max_slides_on_disk or self.settings.max_slides_on_disk
        self._downloads = BoundedSemaphore(self.settings.max_downloads)
        self._closed = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the waiting for slots; slides in use stay until their blocks end."""
        self._closed.set()

    @contextmanager
    def slide(
        self, source: AnySource, fetch: Callable[[AnySource, Path], Acquired] | None = None
    ) -> Iterator[Acquired]:
        """The slide's verified file for the time of the block.

        Args:
            source: a manifest row.
            fetch: gets the slide into a folder, which this store chooses; `acquire` unless given.

        Raises:
            AcquireError: the slide could not be had whole, or the store was closed.
            OutputError: the disk is full or the folder cannot be written.
        """
        get = fetch or self._acquire
        if local_path(source) is not None:
            yield get(source, self.folder)
        elif self.keep:
            with self._alone(source), self._downloads:
                acquired = get(source, self.folder)
            yield acquired
        else:
            with self._slot_for(source) as slot:
                with self._downloads:
                    acquired = get(source, slot)
                yield replace(acquired, transient=True)

    def _acquire(self, source: SlideSource, folder: Path) -> Acquired:
        return acquire(source, folder, self.settings)

    @contextmanager
    def _slot_for(self, source: SlideSource) -> Iterator[Path]:
        """A slot of one's own, empty but for what an earlier run had of this very slide; emptied at the end."""
        slot, lock = self._take_slot(safe_name(source.slide_id), source.slide_id)
        try:
            _empty(slot, but=safe_name(source.slide_id))
            yield slot
        finally:
            try:
                _empty(slot)
            finally:
                lock.release()

    def _take_slot(self, name: str, slide_id: str) -> tuple[Path, FileLock]:
        while not self._closed.is_set():
            self._clear_slots_beyond_bound()
            slots = [self._slots / f"slot-{number:03d}" for number in range(self.max_slides_on_disk)]
            for slot in sorted(slots, key=lambda slot: not (slot / name).exists()):
                if lock := _try_lock(slot):
                    return slot, lock
            self._closed.wait(_POLL_S)
        raise AcquireError(f"{slide_id}: not fetched, the run is ending", reason="run_ended")

    def _clear_slots_beyond_bound(self) -> None:
        """Delete what a killed run with a larger bound left behind; slots that a live run holds are left alone."""
        for slot in self._slots.glob("slot-*/"):
            number = slot.name.removeprefix("slot-")
            if number.isdigit() and int(number) >= self.max_slides_on_disk and (lock := _try_lock(slot)):
                try:
                    _empty(slot)
                    slot.rmdir()
                finally:
                    lock.release()

    @contextmanager
    def _alone(self, source: SlideSource) -> Iterator[None]:
        """One fetch of a slide at a time, over all processes: a second one waits, and finds the file."""
        folder = self.folder / safe_name(source.slide_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock", thread_local=False)
            lock.acquire()
        except OSError as error:
            raise output_error(error, folder) from error
        try:
            yield
        finally:
            lock.release()


def _try_lock(slot: Path) -> FileLock | None:
    """The lock of a slot, held; None where another thread or process holds it."""
    lock = FileLock(f"{slot}.lock", thread_local=False)
    try:
        slot.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        raise output_error(error, slot) from error
    return lock


def _empty(slot: Path, *, but: str = "") -> None:
    try:
        for entry in slot.iterdir():
            if entry.name != but:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except OSError as error:
        raise OutputError(f"{slot}: cannot be emptied: {error.strerror or error}; delete it by hand") from error
