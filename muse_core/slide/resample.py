"""From a level's pixels to pixels at any scale: which level, which rectangle of it, which filter.

All positions are continuous with pixel centres at +0.5, so output px (u, v) lies at level px origin + (u, v) * step, exactly, for
any float origin and step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from muse_core.slide.info import Level
from muse_core.slide.reader import Pixels

_SAME = 1e-6  # relative; closer than this a scale or a position is taken as equal
_LEVEL_TOLERANCE = 1e-3  # relative; a level this little too coarse still serves (4.0008 for 4)
_AREA_FROM = 1.25  # reduction from which plain cubic interpolation would alias visibly
_MARGIN = 3  # px around a rectangle that cubic interpolation looks at


@dataclass(frozen=True)
class Grid:
    """An output grid laid on one level.

    Attributes:
        level: index of the level.
        step_x: level px per output px along x.
        step_y: the same along y.
    """

    level: int
    step_x: float
    step_y: float


@dataclass(frozen=True)
class Window:
    """The level pixels that an output rectangle needs.

    Attributes:
        x: left column in level px; may be negative.
        y: top row in level px; may be negative.
        width: level px.
        height: level px.
        origin_x: the output's left edge in px of the window.
        origin_y: the output's top edge in px of the window.
    """

    x: int
    y: int
    width: int
    height: int
    origin_x: float
    origin_y: float


def grid_for(levels: Sequence[Level], scale_x: float, scale_y: float) -> Grid:
    """The coarsest level that is no coarser than asked for on either axis; level 0 where all are.

    Args:
        levels: finest first.
        scale_x: level-0 px per output px along x.
        scale_y: the same along y.
    """
    fit = 0
    for index, level in enumerate(levels):
        slack = 1 + _LEVEL_TOLERANCE
        if level.downsample_x <= scale_x * slack and level.downsample_y <= scale_y * slack:
            fit = index
    chosen = levels[fit]
    return Grid(fit, _snap(scale_x / chosen.downsample_x), _snap(scale_y / chosen.downsample_y))


def window_for(grid: Grid, x: float, y: float, width_px: int, height_px: int) -> Window:
    """The rectangle of level px under an output rectangle whose corner is (x, y) level px, filter margins included."""
    margin = 0 if _needs_no_margin(grid, x, y) else _MARGIN
    left, origin_x, width = _span(x, grid.step_x, width_px, margin)
    top, origin_y, height = _span(y, grid.step_y, height_px, margin)
    return Window(left, top, width, height, origin_x, origin_y)


def resample(source: Pixels, grid: Grid, window: Window, width_px: int, height_px: int) -> Pixels:
    """The output rectangle from its window's pixels.

    Untouched where scale and position are those of the level. Reductions average areas; where the origin is not on the
    pixel lattice, a bilinear shift goes first, which for whole reductions is the same as weighting the cut pixels.

    Args:
        source: (window.height, window.width, 3) uint8.
        grid: the scale.
        window: where `source` lies.
        width_px: output width.
        height_px: output height.

    Returns:
        (height_px, width_px, 3) uint8.
    """
    steps = (grid.step_x, grid.step_y)
    if steps == (1.0, 1.0) and window.origin_x == window.origin_y == 0.0:
        return source
    if max(steps) < _AREA_FROM:
        return _warp(source, steps, (window.origin_x, window.origin_y), (width_px, height_px), cv2.INTER_CUBIC)
    area = tuple(step if step >= _AREA_FROM else 1.0 for step in steps)
    rest = (steps[0] / area[0], steps[1] / area[1])
    reduced_px = (math.ceil(width_px * rest[0]), math.ceil(height_px * rest[1]))
    reduced = _reduce(source, area, (window.origin_x, window.origin_y), reduced_px)
    if rest == (1.0, 1.0):
        return reduced
    return _warp(reduced, rest, (0.0, 0.0), (width_px, height_px), cv2.INTER_CUBIC)


def _needs_no_margin(grid: Grid, x: float, y: float) -> bool:
    return grid.step_x == grid.step_y == 1.0 and _on_lattice(x) and _on_lattice(y)


def _span(start: float, step: float, length_px: int, margin: int) -> tuple[int, float, int]:
    """First px, offset of the output's edge from it, and number of px, along one axis."""
    start = float(round(start)) if _on_lattice(start) else start
    first = math.floor(start) - margin
    origin = start - first
    return first, origin, math.ceil(origin + length_px * step - _SAME) + margin


def _on_lattice(position: float) -> bool:
    return abs(position - round(position)) < _SAME


def _snap(step: float) -> float:
    """The whole number that a step is meant to be, where it is that close to one."""
    return float(round(step)) if round(step) >= 1 and abs(step / round(step) - 1) < _SAME else step


def _reduce(source: Pixels, steps: tuple[float, ...], origin: tuple[float, float], size_px: tuple[int, int]) -> Pixels:
    """Area averages of `steps` source px each, the first beginning at `origin`."""
    whole_x, whole_y = math.floor(origin[0]), math.floor(origin[1])
    shift = (origin[0] - whole_x, origin[1] - whole_y)
    if shift == (0.0, 0.0):
        moved = source[whole_y:, whole_x:]
    else:
        size = (source.shape[1] - whole_x, source.shape[0] - whole_y)
        moved = _warp(source, (1.0, 1.0), origin, size, cv2.INTER_LINEAR)
    # With no target size OpenCV takes the scale from fx and fy themselves, not from the rounded sizes.
    reduced = cv2.resize(moved, None, fx=1 / steps[0], fy=1 / steps[1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(reduced[: size_px[1], : size_px[0]])


def _warp(
    source: Pixels,
    steps: tuple[float, float],
    origin: tuple[float, float],
    size_px: tuple[int, int],
    interpolation: int,
) -> Pixels:
    """Interpolate at origin + (u, v) * step for every output pixel centre (u, v)."""
    # OpenCV counts pixel centres from 0: ours lie half a pixel further on either side.
    matrix = np.array(
        [
            [steps[0], 0.0, origin[0] + 0.5 * steps[0] - 0.5],
            [0.0, steps[1], origin[1] + 0.5 * steps[1] - 0.5],
        ]
    )
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, matrix, size_px, flags=flags, borderMode=cv2.BORDER_REPLICATE)
