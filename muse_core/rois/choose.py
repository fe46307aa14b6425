"""Which of many overlapping candidates to take: all that fit, or the richest and most diverse where too many do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_POSITION_WEIGHT = 0.5  # of the place in the slide beside each of the stain features; neighbours tend to be alike
_JITTER = 0.05  # of the score's range; lets another seed choose among near equals


@dataclass(frozen=True)
class Candidates:
    """Positions that have enough tissue; all are of one size.

    Attributes:
        x: int64 (N,) left edges, level-0 px.
        y: int64 (N,) top edges, level-0 px.
        width: of each, level-0 px.
        height: of each, level-0 px.
        richness: float64 (N,), 0..1.
        features: float64 (N, K), what diversity is measured in.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    width: float
    height: float
    richness: NDArray[np.float64]
    features: NDArray[np.float64]

    def at(self, indices: NDArray[np.int64]) -> "Candidates":
        """Some of them."""
        columns = (self.richness[indices], self.features[indices])
        return Candidates(self.x[indices], self.y[indices], self.width, self.height, *columns)

    def overlapping(self, index: int) -> NDArray[np.bool_]:
        """Which candidates share area with one of them (it itself included)."""
        near_x = np.abs(self.x - self.x[index]) < self.width
        return np.asarray(near_x & (np.abs(self.y - self.y[index]) < self.height))


def choose(candidates: Candidates, count: int, *, diversity: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of at most `count` candidates, none overlapping.

    Where more than `count` fit side by side, the best are taken wherever they lie; else the densest packing is.
    """
    packed = pack(candidates)
    if len(packed) <= count:
        return packed
    everywhere = np.ones(len(candidates.x), bool)
    taken = take_best(candidates, count, allowed=everywhere, diversity=diversity, rng=rng)
    if len(taken) == count:
        return taken
    # Free placement left gaps that a packing has not.
    return take_best(
        candidates, count, allowed=np.isin(np.arange(len(everywhere)), packed), diversity=diversity, rng=rng
    )


def take_best(
    candidates: Candidates, count: int, *, allowed: NDArray[np.bool_], diversity: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedily the candidate of the best mix of richness and distance to those taken, then the next.

    Source of the distance rule: farthest-point sampling; Gonzalez, Clustering to minimize the maximum intercluster
    distance, 1985.
    """
    space = _feature_space(candidates)
    score = (1 - diversity) * candidates.richness + _JITTER * rng.random(len(space))
    nearest = np.full(len(space), np.sqrt(space.shape[1]))  # about half the distance of a random pair: far enough
    free = allowed.copy()
    taken: list[int] = []
    while len(taken) < count and free.any():
        novelty = nearest / np.sqrt(space.shape[1])
        best = int(np.argmax(np.where(free, score + diversity * novelty, -np.inf)))
        taken.append(best)
        free &= ~candidates.overlapping(best)
        np.minimum(nearest, np.linalg.norm(space - space[best], axis=1), out=nearest)
    return np.array(taken, np.int64)


def pack(candidates: Candidates) -> NDArray[np.int64]:
    """A set without overlaps that is as large as shelves make it, then filled up; indices.

    Each candidate height is a shelf, on which the most that fit side by side are found exactly; then the set of shelves
    that holds the most is. Among equals the richer are taken.
    """
    order = np.lexsort([candidates.x, candidates.y])
    heights, first = np.unique(candidates.y[order], return_index=True)
    shelves = np.split(order, first[1:])
    # Less than 1 in sum, so that richness only breaks ties of number.
    values = 1.0 + candidates.richness / (1.0 + len(candidates.x))
    rows = [shelf[_best_intervals(candidates.x[shelf], candidates.width, values[shelf])] for shelf in shelves]
    totals = np.array([values[row].sum() for row in rows])
    chosen = [index for shelf in _best_intervals(heights, candidates.height, totals) for index in rows[shelf]]
    return _fill(candidates, np.array(chosen, np.int64))


def _fill(candidates: Candidates, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add candidates that still fit, richest first."""
    free = np.ones(len(candidates.x), bool)
    for index in chosen:
        free &= ~candidates.overlapping(int(index))
    added = []
    while free.any():
        best = int(np.argmax(np.where(free, candidates.richness, -1.0)))
        added.append(best)
        free &= ~candidates.overlapping(best)
    return np.concatenate([chosen, np.array(added, np.int64)])


def _best_intervals(begin: NDArray[np.int64], length: float, value: NDArray[np.float64]) -> list[int]:
    """The indices of intervals of one length, none overlapping, of the largest total value; `begin` is sorted.

    Source: weighted interval scheduling, Kleinberg and Tardos, Algorithm Design, 6.1.
    """
    before = np.searchsorted(begin, begin - length, side="right").tolist()  # how many end at or before each begin
    best = [0.0]
    for index, gain in enumerate(value.tolist()):
        best.append(max(best[-1], best[before[index]] + gain))
    taken, index = [], len(begin)
    while index > 0:
        if best[index] == best[index - 1]:
            index -= 1
        else:
            taken.append(index - 1)
            index = before[index - 1]
    return taken[::-1]


def _feature_space(candidates: Candidates) -> NDArray[np.float64]:
    """Features and place of each candidate, every axis of unit spread."""
    place = np.stack([candidates.x, candidates.y], axis=1).astype(np.float64)
    columns = np.concatenate([_standardised(candidates.features), _POSITION_WEIGHT * _standardised(place)], axis=1)
    return columns


def _standardised(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
