"""Tiles through reading and the network at once, each bounded, results in order.

    tiles ─ readers ─▶ images, a few ahead ─ finders ─▶ nuclei ─▶ whoever iterates, group by group

Readers and finders are threads: decoders and networks release Python's lock. On a CPU there is a finder a core, each
with a one-threaded network, for threads that share one network's layers wait for one another at the end of each.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

from muse_core.infer.tiles import Tile

Found = TypeVar("Found")
Image = TypeVar("Image")


@dataclass
class Clock:
    """Seconds that threads spent, by what on; from any thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the block under a name."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Count some time under a name."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class Crew:
    """How many do what.

    Attributes:
        readers: threads that read tiles.
        finders: threads that run the network.
        ahead: batches that are read before a finder is free; with `finders` more they bound the memory.
    """

    readers: int
    finders: int
    ahead: int


@dataclass(frozen=True)
class Steps(Generic[Image, Found]):
    """What is done with a batch of tiles.

    Attributes:
        read: the images of a batch.
        find: what is in the images of a batch.
    """

    read: Callable[[Sequence[Tile]], Image]
    find: Callable[[Sequence[Tile], Image], Found]


def run_groups(
    groups: Sequence[Sequence[Sequence[Tile]]], steps: Steps[Image, Found], crew: Crew, clock: Clock
) -> Generator[list[Found], None, None]:
    """What is found in each group of batches, group by group in their order.

    Args:
        groups: batches of tiles, by group.
        steps: what to do with a batch.
        crew: threads.
        clock: gets the seconds of `read` and `network`, and of `waiting`: finders without an image.

    Raises:
        Exception: whatever a step raises; nothing further is begun. Closing the generator early waits for what is.
    """
    readers = ThreadPoolExecutor(crew.readers, thread_name_prefix="read")
    finders = ThreadPoolExecutor(crew.finders, thread_name_prefix="find")
    pending: deque[tuple[bool, Future[Found]]] = deque()

    def read(batch: Sequence[Tile]) -> Image:
        with clock("read"):
            return steps.read(batch)

    def find(batch: Sequence[Tile], image: Future[Image]) -> Found:
        with clock("waiting"):
            pixels = image.result()
        with clock("network"):
            return steps.find(batch, pixels)

    held: list[Found] = []
    try:
        for group in groups:
            for place, batch in enumerate(group, start=1):
                pending.append((place == len(group), finders.submit(find, batch, readers.submit(read, batch))))
                while len(pending) >= crew.finders + crew.ahead:
                    yield from _taken(pending, held)
        while pending:
            yield from _taken(pending, held)
    finally:
        for pool in (readers, finders):
            pool.shutdown(wait=True, cancel_futures=True)


def _taken(pending: deque[tuple[bool, Future[Found]]], held: list[Found]) -> Iterator[list[Found]]:
    """Wait for the oldest batch; the group, where it was its last."""
    last, future = pending.popleft()
    held.append(future.result())
    if last:
        yield held.copy()
        held.clear()
