"""Many slides through little disk: slots of one slide each, shared by the threads and processes of a machine."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock
from types import TracebackType
from typing import Generic, Self, TypeVar

from filelock import FileLock, Timeout

from muse_core.acquire.fetch import Acquired, SlideSource, acquire
from muse_core.acquire.settings import AcquireSettings
from muse_core.errors import AcquireError, MuseError, OutputError
from muse_core.files import as_output_error, safe_name
from muse_core.uris import local_path

_log = logging.getLogger(__name__)
_POLL_S = 0.05  # how soon a freed slot is noticed; small beside fetching a slide

AnySource = TypeVar("AnySource", bound=SlideSource)


class SlideStore:
    """Slides for a while: `with store.slide(row) as acquired: ...`.

    Without kept slides, a fetched slide takes one of `max_slides_on_disk` slots from its first byte until it is
    released, and is then deleted; where all are taken, fetching waits. A slot is a folder with a lock file beside it, so that the
    bound holds for all processes that share the folder, and what a killed run left in a slot is resumed or replaced,
    never added to. Local files are used in place; they take no slot and are never deleted.

    With kept slides nothing is deleted, and a slide that is there whole is not fetched again.
    """

    def __init__(self, folder: Path, settings: AcquireSettings, *, keep: bool = True) -> None:
        self.folder = folder
        self.settings = settings
        self.keep = keep
        self._downloads = BoundedSemaphore(settings.max_downloads)
        self._closed = Event()
        self._mutex = Lock()
        self._held: dict[Path, FileLock] = {}  # slide file to the lock of its slot

    def __enter__(self) -> Self:
        if not self.keep:
            self._empty_slots_beyond_bound()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what is still held and end the waiting for slots."""
        self._closed.set()
        with self._mutex:
            left = list(self._held)
        for path in left:
            self._free(path)

    @contextmanager
    def slide(self, source: SlideSource) -> Iterator[Acquired]:
        """The slide's file for the time of the block.

        Raises:
            AcquireError: the slide could not be had whole.
            OutputError: the disk is full or the folder cannot be written.
        """
        acquired = self.fetch(source)
        try:
            yield acquired
        finally:
            self.release(acquired)

    def fetch(self, source: SlideSource) -> Acquired:
        """Get a slide, waiting for a slot and a connection; hand it to `release` after use.

        Raises:
            AcquireError: the slide could not be had whole, or the store was closed.
            OutputError: the disk is full or the folder cannot be written.
        """
        if local_path(source.uri) is not None:
            return acquire(source, self.folder, self.settings)
        if self.keep:
            with self._alone(source), self._downloads:
                return acquire(source, self.folder, self.settings)
        slot, lock = self._take_slot(source)
        try:
            with self._downloads:
                acquired = replace(acquire(source, slot, self.settings), transient=True)
        except BaseException:  # not handled, only tidied: the slot must not stay taken, whatever came
            _empty(slot)
            lock.release()
            raise
        with self._mutex:
            self._held[acquired.path] = lock
        return acquired

    def release(self, acquired: Acquired) -> None:
        """Delete a transient slide and free its slot; nothing for others."""
        if acquired.transient:
            self._free(acquired.path)

    def fetch_ahead(self, sources: Iterable[AnySource]) -> "Iterator[Ahead[AnySource]]":
        """Fetch in the background, as far ahead as slots and connections allow; yields in the order of completion.

        The caller releases each slide it gets; with all slots held by the caller, no further one comes.
        """
        waiting = iter(sources)
        pending: dict[Future[Acquired], AnySource] = {}
        pool = ThreadPoolExecutor(self.settings.max_downloads, thread_name_prefix="fetch")
        try:
            while True:
                # Only as many as threads are handed in, so that closing early leaves little to cancel.
                while len(pending) < self.settings.max_downloads and (source := next(waiting, None)) is not None:
                    pending[pool.submit(self.fetch, source)] = source
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield Ahead(pending.pop(future), future)
        finally:
            for future in pending:
                future.add_done_callback(self._release_unwanted)
                future.cancel()
            pool.shutdown(wait=False, cancel_futures=True)

    def _release_unwanted(self, future: Future[Acquired]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.release(future.result())

    def _take_slot(self, source: SlideSource) -> tuple[Path, FileLock]:
        """A slot of one's own, that which holds a part of this slide if there is one; emptied of anything else."""
        name = safe_name(source.slide_id)
        while not self._closed.is_set():
            slots = [self._slot(number) for number in range(self.settings.max_slides_on_disk)]
            for slot in sorted(slots, key=lambda slot: not (slot / name).exists()):
                if lock := self._try_lock(slot):
                    _empty(slot, but=name)
                    return slot, lock
            self._closed.wait(_POLL_S)
        raise AcquireError(f"{source.slide_id}: not fetched, the run is ending")

    def _try_lock(self, slot: Path) -> FileLock | None:
        lock = FileLock(f"{slot}.lock", thread_local=False)
        try:
            slot.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            raise as_output_error(error, slot) from error
        return lock

    def _free(self, path: Path) -> None:
        with self._mutex:
            lock = self._held.pop(path, None)
        if lock is not None:
            _empty(path.parent.parent)
            lock.release()

    @contextmanager
    def _alone(self, source: SlideSource) -> Iterator[None]:
        """One fetch of a slide at a time, over all processes: a second one waits, and finds the file."""
        folder = self.folder / safe_name(source.slide_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_output_error(error, folder) from error
        with FileLock(folder / ".lock", thread_local=False):
            yield

    def _empty_slots_beyond_bound(self) -> None:
        """Delete what an earlier run with a larger bound left behind."""
        for slot in self.folder.glob("slot-*/"):
            number = slot.name.removeprefix("slot-")
            if number.isdigit() and int(number) >= self.settings.max_slides_on_disk and (lock := self._try_lock(slot)):
                _empty(slot)
                slot.rmdir()
                lock.release()

    def _slot(self, number: int) -> Path:
        return self.folder / f"slot-{number:03d}"


class Ahead(Generic[AnySource]):
    """A slide fetched ahead, or why it was not: `result()` gives the file or raises."""

    def __init__(self, source: AnySource, future: Future[Acquired]) -> None:
        self.source = source
        self._future = future

    def result(self) -> Acquired:
        """The slide's file.

        Raises:
            AcquireError: the slide could not be had whole.
            OutputError: the disk is full or the folder cannot be written.
        """
        return self._future.result()

    @property
    def error(self) -> MuseError | None:
        """Why the slide was not had; None if it was."""
        error = self._future.exception()
        return error if isinstance(error, MuseError) else None


def _empty(slot: Path, *, but: str = "") -> None:
    try:
        for entry in slot.iterdir():
            if entry.name != but:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except OSError as error:
        raise OutputError(f"{slot}: cannot be emptied: {error.strerror or error}; delete it by hand") from error
