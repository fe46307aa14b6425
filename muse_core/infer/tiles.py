"""Where the network looks: tiles over an area of a slide, the part that each one owns, and their order.

All in network px: px at the model's µm/px, with the corner of level 0 as their origin.

    +-------------------+   window: what the network sees; starts on the model's grid
    |   +-----------+   |
    |   | core: half-open, whose nuclei the tile owns; cores share no point and together hold the area
    |   +-----------+   |
    +-------------------+   around what is worked on in it at least the margin, or the slide ends
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import shapely
from shapely import Polygon

from muse_core.geometry import Box
from muse_core.infer.partition import CellBox, Mask, WindowCost, partition

SHAPE_STEP_PX = 64  # sides of windows are multiples of this
CELL_PX = 64  # what the area is followed by; 32 µm
_WINDOW_PX = 50_000  # what a window costs besides: a call, its nuclei at borders, an entry in the tables
_TOUCH_PX = 1e-6  # a cell that an area only touches holds none of it


@dataclass(frozen=True)
class TileGrid:
    """How an area is cut.

    Attributes:
        window_px: side of the largest square window; others have no more px.
        margin_px: least surroundings that the network sees around the part of a core that is worked on.
        grid_px: windows start at multiples of this.
        bounds: the slide; windows keep within it as far as their sides allow.
        offset_px: shifts the borders of cores.
        shape_px: px that it costs to meet another shape of window: a few shapes are better than windows cut to fit.
    """

    window_px: int
    margin_px: int
    grid_px: int
    bounds: Box
    offset_px: tuple[int, int] = (0, 0)
    shape_px: int = 0

    @property
    def cost(self) -> WindowCost:
        """What cores cost to look at."""
        return WindowCost(CELL_PX, self.margin_px, self.step_px, self.window_px, extra_px=_WINDOW_PX)

    @property
    def step_px(self) -> int:
        """Sides of windows are multiples of this."""
        return math.lcm(SHAPE_STEP_PX, self.grid_px)


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
        number: its place in the order of all tiles of the slide.
        core: what it owns.
        x: left edge of its window.
        y: top edge.
        width: of its window.
        height: of its window.
    """

    number: int
    core: Box
    x: int
    y: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the window."""
        return self.width, self.height


def plan_tiles(area: Sequence[Polygon], grid: TileGrid) -> list[Tile]:
    """The tiles whose cores hold an area; those of one shape follow one another, the largest first.

    Args:
        area: polygons, network px.
        grid: how to cut.
    """
    if not area:
        return []
    origin, cells = _cells(area, grid.offset_px)
    cores = [_core(box, origin) for box in partition(cells, grid.cost)]
    shapes = _few_shapes([_shape(core, grid) for core in cores], grid.shape_px)
    placed = [_tile(core, shape, grid) for core, shape in zip(cores, shapes, strict=True)]
    placed.sort(key=lambda tile: (-tile.width * tile.height, tile.shape))  # stable: neighbours stay near one another
    return [replace(tile, number=number) for number, tile in enumerate(placed)]


def seen_px(tiles: Sequence[Tile]) -> int:
    """Pixels that the network sees, those in several windows as often."""
    return sum(tile.width * tile.height for tile in tiles)


def in_groups(tiles: Sequence[Tile], most: int) -> list[list[Tile]]:
    """Tiles in pieces that are kept together: consecutive, `most` each."""
    return [list(tiles[start : start + most]) for start in range(0, len(tiles), most)]


def in_batches(tiles: Sequence[Tile], most: int) -> list[list[Tile]]:
    """Tiles of one window shape together, at most `most` a batch; the order within a shape stays."""
    ordered = sorted(tiles, key=lambda tile: (tile.shape, tile.number))
    batches = []
    for _, alike in groupby(ordered, key=lambda tile: tile.shape):
        batches += in_groups(list(alike), most)
    return sorted(batches, key=lambda batch: batch[0].number)


def _cells(area: Sequence[Polygon], offset_px: tuple[int, int]) -> tuple[tuple[int, int], Mask]:
    """The corner of a lattice of cells, and which of them (rows, columns) hold some of an area."""
    left, top, right, bottom = shapely.total_bounds(list(area))
    x, y = (_floor(side - offset, CELL_PX) + offset for side, offset in zip((left, top), offset_px, strict=True))
    rows, columns = (max(1, math.ceil((end - start) / CELL_PX)) for end, start in ((bottom, y), (right, x)))
    cells = np.zeros((rows, columns), bool)
    for polygon in area:
        low, high = (np.array(polygon.bounds[at : at + 2]) for at in (0, 2))
        first = np.floor((low - (x, y)) / CELL_PX).astype(int).clip(0)
        last = np.ceil((high - (x, y)) / CELL_PX).astype(int)
        row, column = np.mgrid[first[1] : min(last[1], rows), first[0] : min(last[0], columns)]
        corner_x, corner_y = x + column * CELL_PX, y + row * CELL_PX
        far = CELL_PX - _TOUCH_PX
        boxes = shapely.box(corner_x + _TOUCH_PX, corner_y + _TOUCH_PX, corner_x + far, corner_y + far)
        shapely.prepare(polygon)
        cells[row, column] |= shapely.intersects(polygon, boxes)
    return (x, y), cells


def _core(box: CellBox, origin: tuple[int, int]) -> Box:
    x, y = origin[0] + box.left * CELL_PX, origin[1] + box.top * CELL_PX
    return Box(x, y, (box.right - box.left) * CELL_PX, (box.bottom - box.top) * CELL_PX)


def _shape(core: Box, grid: TileGrid) -> tuple[int, int]:
    """Width and height of the window that a core needs."""
    return (
        _span(core.x, core.right, grid, grid.bounds.x, grid.bounds.right)[1],
        _span(core.y, core.bottom, grid, grid.bounds.y, grid.bounds.bottom)[1],
    )


def _tile(core: Box, shape: tuple[int, int], grid: TileGrid) -> Tile:
    x, width = _span(core.x, core.right, grid, grid.bounds.x, grid.bounds.right, shape[0])
    y, height = _span(core.y, core.bottom, grid, grid.bounds.y, grid.bounds.bottom, shape[1])
    return Tile(0, core, x, y, width, height)


def _span(
    low: float, high: float, grid: TileGrid, least: float, most: float, length: int | None = None
) -> tuple[int, int]:
    """Start and length of a window over low..high with its margins, which end where the slide does.

    The last px of a window may lie beyond the slide: fewer than the model's grid where there is room before it.
    """
    start = _floor(max(low - grid.margin_px, least), grid.grid_px)
    end = min(high + grid.margin_px, most)
    length = length or math.ceil((end - start) / grid.step_px) * grid.step_px
    last = math.ceil(most / grid.grid_px) * grid.grid_px
    if start + length > last:  # rather more surroundings before it than nothing after it
        start = max(last - length, min(start, _floor(least, grid.grid_px)))
    return start, length


def _floor(value: float, step: int) -> int:
    return math.floor(value / step) * step


def _few_shapes(shapes: list[tuple[int, int]], shape_px: int) -> list[tuple[int, int]]:
    """Shapes of windows, the rare ones enlarged to others where those px cost less than meeting one shape more."""
    count, taken = Counter(shapes), {shape: shape for shape in shapes}
    while True:
        growths = [
            (count[one] * (other[0] * other[1] - one[0] * one[1]), one, other)
            for one in count
            for other in count
            if one != other and one[0] <= other[0] and one[1] <= other[1]
        ]
        extra_px, one, other = min(growths, default=(shape_px, (0, 0), (0, 0)))
        if extra_px >= shape_px:
            return [taken[shape] for shape in shapes]
        count[other] += count.pop(one)
        taken = {shape: other if now == one else now for shape, now in taken.items()}
