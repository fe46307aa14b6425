"""An area on a lattice of cells cut into rectangles by straight cuts, so that windows around them see little twice.

Every rectangle is as small as the area in it allows, none has more pixels with its margins than a window may have, and
each cut is the one that promises the least to be seen. Seen is more than the area: around each rectangle the network
looks at a margin.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

_LONGEST = 2.0  # side of a window, in sides of the largest square one


class CellBox(NamedTuple):
    """Rows top..bottom and columns left..right of a lattice, the last ones excluded."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class WindowCost:
    """What a rectangle of cells costs to look at.

    Attributes:
        cell_px: side of a cell.
        margin_px: looked at around a rectangle, on each side.
        step_px: sides of windows are multiples of this.
        most_px: side of the largest square window; others have no more pixels and are at most twice as long.
        extra_px: what a window costs besides its pixels, in pixels.
    """

    cell_px: int
    margin_px: int
    step_px: int
    most_px: int
    extra_px: int = 0

    @property
    def most_cells(self) -> int:
        """Side of the largest square rectangle, in cells."""
        return (self.most_px // self.step_px * self.step_px - 2 * self.margin_px) // self.cell_px

    def fits(self, rows: Counts, columns: Counts) -> Mask:
        """Whether rectangles of so many rows and columns are small enough for one window each."""
        height, width = self.side_px(rows), self.side_px(columns)
        return (height * width <= self.most_px**2) & (np.maximum(height, width) <= _LONGEST * self.most_px)

    def of(self, rows: Counts, columns: Counts) -> Counts:
        """Pixels to look at for rectangles of so many rows and columns, cut evenly where they are too large."""
        whole = self.side_px(rows) * self.side_px(columns) + self.extra_px * (rows * columns > 0)
        down, across = self._windows(rows), self._windows(columns)
        each = self.side_px(-(-rows // np.maximum(down, 1))) * self.side_px(-(-columns // np.maximum(across, 1)))
        return np.where(self.fits(rows, columns), whole, down * across * (each + self.extra_px))

    def side_px(self, cells: Counts) -> Counts:
        """The side of a window around so many cells in a row; 0 around none."""
        steps = -(-(cells * self.cell_px + 2 * self.margin_px) // self.step_px)
        return np.where(cells > 0, steps * self.step_px, 0)

    def _windows(self, cells: Counts) -> Counts:
        return np.asarray(-(-cells // self.most_cells), np.int64)


def partition(area: Mask, cost: WindowCost) -> list[CellBox]:
    """Rectangles that hold all of an area (rows, columns), none of them sharing a cell; along the cuts, in order."""
    boxes: list[CellBox] = []
    waiting = [CellBox(0, 0, *area.shape)]
    while waiting:
        box = _tight(area, waiting.pop())
        if box is None:
            continue
        halves = _best_cut(area[box.top : box.bottom, box.left : box.right], box, cost)
        if halves is None:
            boxes.append(box)
        else:
            waiting += reversed(halves)
    return boxes


def _tight(area: Mask, box: CellBox) -> CellBox | None:
    """The smallest box around the area in a box; None where there is none."""
    inside = area[box.top : box.bottom, box.left : box.right]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    top, left = box.top + int(rows[0]), box.left + int(columns[0])
    return CellBox(top, left, box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1)


def _best_cut(inside: Mask, box: CellBox, cost: WindowCost) -> list[CellBox] | None:
    """The two halves of a box that cost least; None where it costs least whole, and may stay so."""
    rows, columns = (np.array(side) for side in inside.shape)
    down, across = _costs_of_cuts(inside, cost), _costs_of_cuts(inside.T, cost)
    least = min(down.min(initial=np.inf), across.min(initial=np.inf))
    if cost.fits(rows, columns) and least >= cost.of(rows, columns):
        return None
    if down.min(initial=np.inf) <= least:
        at = box.top + 1 + _most_central(down)
        return [CellBox(box.top, box.left, at, box.right), CellBox(at, box.left, box.bottom, box.right)]
    at = box.left + 1 + _most_central(across)
    return [CellBox(box.top, box.left, box.bottom, at), CellBox(box.top, at, box.bottom, box.right)]


def _costs_of_cuts(inside: Mask, cost: WindowCost) -> NDArray[np.float64]:
    """What both parts cost together when the first 1, 2, ... rows are cut off."""
    if len(inside) < 2:
        return np.empty(0)
    return (_costs_of_heads(inside, cost)[:-1] + _costs_of_heads(inside[::-1], cost)[:-1][::-1]).astype(np.float64)


def _costs_of_heads(inside: Mask, cost: WindowCost) -> Counts:
    """What the first 1, 2, ... rows cost, each as the box around the area in them."""
    numbers = np.arange(len(inside))
    filled = inside.any(axis=1)
    first = int(filled.argmax())
    last = np.maximum.accumulate(np.where(filled, numbers, -1))
    seen = np.logical_or.accumulate(inside, axis=0)
    left, right = seen.argmax(axis=1), inside.shape[1] - seen[:, ::-1].argmax(axis=1)
    empty = last < 0
    return cost.of(np.where(empty, 0, last - first + 1), np.where(empty, 0, right - left))


def _most_central(costs: NDArray[np.float64]) -> int:
    """Of the cheapest cuts the one nearest to the middle."""
    cheapest = np.flatnonzero(costs == costs.min())
    return int(cheapest[np.abs(cheapest - (len(costs) - 1) / 2).argmin()])
