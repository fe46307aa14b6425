"""Which of many overlapping candidates to take: all that fit, or the richest and most diverse where too many do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_POSITION_WEIGHT = 0.5  # of the place in the slide beside each of the stain features; neighbours tend to be alike
_JITTER = 0.05  # of the score's range; lets another seed choose among near equals
_WORTH_DROPPING = 0.7  # candidates that were taken or overlap these are dropped once fewer than this share are left


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


class Neighbours:
    """Finds the candidates that overlap one of them, by looking in its own cell of a grid and the eight around it."""

    def __init__(self, candidates: Candidates) -> None:
        """Sort the candidates into cells of a ROI's size."""
        self._candidates = candidates
        column = ((candidates.x - candidates.x.min()) // candidates.width).astype(np.int64)
        row = ((candidates.y - candidates.y.min()) // candidates.height).astype(np.int64)
        self._stride = int(column.max(initial=0)) + 3  # an empty column at each end keeps rows apart
        self._cell = (row + 1) * self._stride + column + 1
        self._order = np.argsort(self._cell, kind="stable")
        self._sorted = self._cell[self._order]

    def overlapping(self, index: int) -> NDArray[np.int64]:
        """The indices of the candidates that share area with one of them, it itself included."""
        rows = self._cell[index] + self._stride * np.array([-1, 0, 1])
        spans = np.searchsorted(self._sorted, np.stack([rows - 1, rows + 2], axis=1)).tolist()
        near = np.concatenate([self._order[begin:end] for begin, end in spans])
        x, y = self._candidates.x, self._candidates.y
        in_x = np.abs(x[near] - x[index]) < self._candidates.width
        return np.asarray(near[in_x & (np.abs(y[near] - y[index]) < self._candidates.height)])


def choose(candidates: Candidates, count: int, *, diversity: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of at most `count` candidates, none overlapping.

    Where more than `count` fit side by side, the best are taken wherever they lie; else the densest packing is.
    """
    packed = pack(candidates)
    if len(packed) <= count:
        return packed
    space = _feature_space(candidates)
    taken = take_best(candidates, space, count, diversity=diversity, rng=rng)
    if len(taken) == count:
        return taken
    # Free placement left gaps that a packing has not.
    return packed[take_best(candidates.at(packed), space[packed], count, diversity=diversity, rng=rng)]


def take_best(
    candidates: Candidates, space: NDArray[np.float64], count: int, *, diversity: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedily the candidate of the best mix of richness and distance to those taken, then the next.

    Source of the distance rule: farthest-point sampling; Gonzalez, Clustering to minimize the maximum intercluster
    distance, 1985.

    Args:
        candidates: at least one.
        space: float64 (N, K), where each lies among the others; every axis of unit spread.
        count: at most so many are taken.
        diversity: 0 for richness alone, 1 for distance alone.
        rng: what decides between near equals.

    Returns:
        Indices of candidates that don't overlap, best first.
    """
    score = (1 - diversity) * candidates.richness + _JITTER * rng.random(len(space))
    nearest = np.ones(len(space))  # squared distances in unit diagonals: about half that of a random pair, far enough
    points = space / np.sqrt(space.shape[1])
    # With these two columns more, one product makes squared distances: |a - b|^2 = a.(-2b) + |a|^2 + |b|^2.
    points = np.column_stack([points, (points**2).sum(axis=1), np.ones(len(points))])
    indices, neighbours = np.arange(len(space)), Neighbours(candidates)
    free, n_free, work = np.ones(len(space), np.bool_), len(space), np.empty(len(space))
    taken: list[int] = []
    while len(taken) < count and n_free:
        np.sqrt(nearest, out=work)
        work *= diversity
        work += score
        best = int(np.argmax(work))
        taken.append(int(indices[best]))
        overlapping = neighbours.overlapping(best)
        n_free -= int(np.count_nonzero(free[overlapping]))
        free[overlapping] = False
        score[overlapping] = -np.inf
        *point, square, one = points[best].tolist()
        np.dot(points, np.array([*(-2 * value for value in point), one, square]), out=work)
        np.maximum(work, 0.0, out=work)  # rounding may leave a little less
        np.minimum(nearest, work, out=nearest)
        if 0 < n_free < _WORTH_DROPPING * len(free):
            kept = np.flatnonzero(free)
            score, nearest, points, indices = score[kept], nearest[kept], points[kept], indices[kept]
            free, work, candidates = free[kept], work[kept], candidates.at(kept)
            neighbours = Neighbours(candidates)
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
    neighbours = Neighbours(candidates)
    free = np.ones(len(candidates.x), np.bool_)
    for index in chosen.tolist():
        free[neighbours.overlapping(index)] = False
    added = []
    for index in np.argsort(-candidates.richness, kind="stable").tolist():
        if free[index]:
            added.append(index)
            free[neighbours.overlapping(index)] = False
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
