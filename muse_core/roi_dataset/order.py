"""In which order ROIs are used in training, and which of many workers uses which.

One global order an epoch, a pure function of seed and epoch. Ranks and loader workers take turns along it, so that what
has been used after n ROIs is always the first n of the order, whatever the topology: that one number is all a resumed
run needs, and it may have another number of ranks and workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError


@dataclass(frozen=True)
class Shard:
    """One reader among many.

    Attributes:
        rank: training process 0..world_size - 1.
        world_size: training processes; position p of the global order goes to rank p % world_size.
        worker: loader worker 0..n_workers - 1 of the rank.
        n_workers: loader workers a rank.
        batch_size: ROIs a worker takes before the turn passes to the next. With the loader's own batch size, a loader
            that asks its workers in turn (as PyTorch's does) gets a rank's ROIs in the order one worker would give.
    """

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    n_workers: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and 0 <= self.worker < self.n_workers and self.batch_size >= 1):
            raise DatasetError(f"{self}: needs 0 <= rank < world_size, 0 <= worker < n_workers and batch_size >= 1")

    def positions(self, start: int, stop: int) -> Iterator[int]:
        """The global positions in start..stop - 1 that are this reader's, ascending.

        Ranks may differ by one ROI at the end of an epoch; who needs equal counts drops the last, incomplete step.
        """
        turn = range(start + self.rank, stop, self.world_size)
        for first in range(self.worker * self.batch_size, len(turn), self.n_workers * self.batch_size):
            yield from turn[first : first + self.batch_size]


ONLY_READER = Shard()


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0..count - 1, (count,) int64: the same for ever for one seed and epoch.

    The indices are sorted by their hash rather than shuffled by NumPy's generator, whose methods may change their
    stream between releases.

    Source: SplitMix64, Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195
    """
    key = _splitmix64(_splitmix64(np.array([seed], np.int64).view(np.uint64)) + np.uint64(epoch))
    return np.argsort(_splitmix64(np.arange(count, dtype=np.uint64) + key), kind="stable")


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits to 64 bits, one to one; unsigned overflow is part of it."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
