"""Open handles of one slide: each is used by one thread at a time, and one that failed is never used again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from muse_core.errors import SlideReadError
from muse_core.slide.reader import Reader

_MAX_IDLE = 8  # handles kept open for the next caller; each holds a file descriptor and up to 32 MiB of tiles

Result = TypeVar("Result")


class Handles:
    """Lends handles out and opens more when all are in use."""

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        """Args: open_reader: opens one more handle on the slide."""
        self._open_reader = open_reader
        self._lock = threading.Lock()
        self._idle: list[Reader] = []
        self._closed = False

    def take(self) -> Reader:
        """A handle that is the caller's until `give_back`."""
        with self._lock:
            if self._closed:
                raise SlideReadError("the slide is closed; open it again")
            reader = self._idle.pop() if self._idle else None
        return reader or self._open_reader()

    def give_back(self, reader: Reader, *, healthy: bool) -> None:
        """Keep a handle for the next caller; close it where a read on it failed or enough are kept."""
        with self._lock:
            keep = healthy and not self._closed and len(self._idle) < _MAX_IDLE
            if keep:
                self._idle.append(reader)
        if not keep:
            reader.close()

    @contextmanager
    def borrow(self) -> Iterator[Reader]:
        """A handle for the length of the block; closed instead of kept when the block fails."""
        reader = self.take()
        healthy = False
        try:
            yield reader
            healthy = True
        finally:
            self.give_back(reader, healthy=healthy)

    def read(self, action: Callable[[Reader], Result]) -> Result:
        """Run `action` on a handle; after a failure once more on a fresh one, for it may echo an older failure.

        Raises:
            SlideReadError: it failed on the fresh handle too.
        """
        try:
            with self.borrow() as reader:
                return action(reader)
        except SlideReadError:
            self._drop_idle()
            with self.borrow() as reader:
                return action(reader)

    def close(self) -> None:
        """Close every handle; those lent out are closed when they come back."""
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()
