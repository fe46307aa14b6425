"""Where the network looks: tiles over an area of a slide, the part that each one owns, and their order.

All in network px: px at the model's µm/px, with the corner of level 0 as their origin.

    +-------------------+   window: what the network sees; starts on the model's grid
    |   +-----------+   |
    |   | core: half-open, whose nuclei the tile owns; cores leave no gap and share no point
    |   +-----------+   |
    +-------------------+   between them at least the margin
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import shapely
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from muse_core.geometry import Box

# Window sides are multiples of this, so that few shapes meet: those of one shape share a batch, and the network's
# library keeps code and buffers for each shape it has seen.
SHAPE_STEP_PX = 256


@dataclass(frozen=True)
class TileGrid:
    """How an area is cut.

    Attributes:
        core_px: side of the cores.
        margin_px: least surroundings that the network sees around the part of a core that is worked on.
        grid_px: windows start at multiples of this.
        offset_px: shifts the cores, which else begin at the area's left and top.
    """

    core_px: int
    margin_px: int
    grid_px: int
    offset_px: tuple[int, int] = (0, 0)


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
    """The tiles whose cores hold some of an area, neighbours near one another in the order.

    A window is as large as the area in its core needs, not as large as the core would allow.

    Args:
        area: polygons, network px.
        grid: how to cut.
    """
    whole = shapely.union_all(list(area))
    if whole.is_empty:
        return []
    shapely.prepare(whole)
    origin = _origin(whole, grid)
    tiles: list[Tile] = []
    for column, row in _on_curve(*_cells(whole, origin, grid.core_px)):
        core = Box(
            origin[0] + column * grid.core_px,
            origin[1] + row * grid.core_px,
            grid.core_px,
            grid.core_px,
        )
        box = shapely.box(core.x, core.y, core.right, core.bottom)
        if whole.intersects(box) and (inside := shapely.intersection(whole, box)).area > 0:  # not a touch of edges
            tiles.append(_tile(len(tiles), core, inside, grid))
    return tiles


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


def _tile(number: int, core: Box, inside: BaseGeometry, grid: TileGrid) -> Tile:
    left, top, right, bottom = inside.bounds
    x, width = _span(left, right, grid)
    y, height = _span(top, bottom, grid)
    return Tile(number, core, x, y, width, height)


def _span(low: float, high: float, grid: TileGrid) -> tuple[int, int]:
    """Start and length of a window over low..high with its margins."""
    start = math.floor((low - grid.margin_px) / grid.grid_px) * grid.grid_px
    step = math.lcm(SHAPE_STEP_PX, grid.grid_px)
    return start, math.ceil((high + grid.margin_px - start) / step) * step


def _origin(whole: BaseGeometry, grid: TileGrid) -> tuple[int, int]:
    """The corner of one core: with the area's own left and top, only cores at its right and bottom reach out of it."""
    left, top, _, _ = whole.bounds
    x, y = (math.floor(side / grid.grid_px) * grid.grid_px for side in (left, top))
    return x + grid.offset_px[0], y + grid.offset_px[1]


def _cells(whole: BaseGeometry, origin: tuple[int, int], core_px: int) -> tuple[range, range]:
    """Columns and rows of cores under the bounds of an area."""
    left, top, right, bottom = whole.bounds
    x, y = origin
    return (
        range(math.floor((left - x) / core_px), math.floor((right - x) / core_px) + 1),
        range(math.floor((top - y) / core_px), math.floor((bottom - y) / core_px) + 1),
    )


def _on_curve(columns: range, rows: range) -> list[tuple[int, int]]:
    """Every column and row, along a Z-order curve: consecutive ones make compact blocks."""
    cells = [(column, row) for row in rows for column in columns]
    return sorted(cells, key=lambda cell: _interleaved(cell[0] - columns.start, cell[1] - rows.start))


def _interleaved(x: int, y: int) -> int:
    """The bits of two whole numbers by turns.

    Source: https://en.wikipedia.org/wiki/Z-order_curve
    """
    place = 0
    for bit in range(max(x, y).bit_length()):
        place |= ((x >> bit & 1) << 2 * bit) | ((y >> bit & 1) << 2 * bit + 1)
    return place
