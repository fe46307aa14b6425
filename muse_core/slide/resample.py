"""From a level's pixels to pixels at any scale: which level, which rectangle of it, which filter.

All positions are continuous with pixel centres at +0.5, so output px (u, v) lies at level px origin + (u, v) * step,
exactly, for any float origin and step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from muse_core.images.pixels import Pixels
from muse_core.slide.info import Level

_SAME = 1e-6  # relative; closer than this a scale or a position is taken as equal
_LEVEL_TOLERANCE = 1e-3  # relative; a level this little too coarse still serves (4.0008 for 4)
AREA_FROM = 1.25  # reduction from which plain cubic interpolation would alias visibly
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

    def lies_in(self, level: Level) -> bool:
        """Whether all of it is image."""
        right, bottom = self.x + self.width, self.y + self.height
        return self.x >= 0 and self.y >= 0 and right <= level.width and bottom <= level.height


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
    untouched = grid.step_x == grid.step_y == 1.0 and _on_lattice(x) and _on_lattice(y)
    margin = 0 if untouched else _MARGIN
    left, origin_x, width = _span(x, grid.step_x, width_px, margin)
    top, origin_y, height = _span(y, grid.step_y, height_px, margin)
    return Window(left, top, width, height, origin_x, origin_y)


def resample(source: Pixels, grid: Grid, window: Window, width_px: int, height_px: int) -> Pixels:
    """The output rectangle from its window's pixels.

    Untouched where scale and position are those of the level. Otherwise in steps that are each fast: averages of whole
    numbers of pixels, a cubic shift where the origin is not on the lattice, then the rest of the scale, cubic where it
    is small and by areas where that would alias. OpenCV takes that scale from fx and fy themselves, not from rounded
    sizes, so no position drifts.

    Args:
        source: (window.height, window.width, 3) uint8.
        grid: the scale.
        window: where `source` lies.
        width_px: output width.
        height_px: output height.

    Returns:
        (height_px, width_px, 3) uint8.
    """
    steps = np.array((grid.step_x, grid.step_y))
    pixels = source
    whole = np.maximum(np.floor(steps), 1).astype(int)
    if whole.max() > 1:
        width, height = pixels.shape[1] // whole[0], pixels.shape[0] // whole[1]
        pixels = pixels[: height * whole[1], : width * whole[0]]
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    pixels = _from_origin(pixels, window.origin_x / whole[0], window.origin_y / whole[1])
    rest = steps / whole
    for along, across in ((rest[0], 1.0), (1.0, rest[1])) if filters_differ(*rest) else (tuple(rest),):
        pixels = _scale(pixels, along, across)
    return np.ascontiguousarray(pixels[:height_px, :width_px])


def scaled_image(rgb: Pixels, scale: float) -> Pixels:
    """A whole image (H, W, 3) times `scale`: px (x, y) comes to (x, y) * scale, whatever its size is rounded to."""
    least = math.ceil(1 / scale)  # source px that make one of the result
    height, width = rgb.shape[:2]
    if height < least or width < least:
        rows, columns = max(0, least - height), max(0, least - width)
        rgb = np.asarray(cv2.copyMakeBorder(rgb, 0, rows, 0, columns, cv2.BORDER_REFLECT), np.uint8)
    if scale == 1:
        return rgb
    # Given fx and no size, OpenCV maps by fx itself: a size would be rounded, and the map with it.
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=kernel), np.uint8)


def filters_differ(step_x: float, step_y: float) -> bool:
    """Whether the axes need different filters; each is then scaled by itself."""
    return (step_x >= AREA_FROM) != (step_y >= AREA_FROM)


def _scale(pixels: Pixels, step_x: float, step_y: float) -> Pixels:
    """Steps below 2; the output's origin is that of `pixels`."""
    if step_x == step_y == 1.0:
        return pixels
    filter_ = cv2.INTER_AREA if max(step_x, step_y) >= AREA_FROM else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, None, fx=1 / step_x, fy=1 / step_y, interpolation=filter_), np.uint8)


def _from_origin(source: Pixels, origin_x: float, origin_y: float) -> Pixels:
    """The pixels right of and below a point, shifted by the fraction of a pixel that it lies off the lattice."""
    whole_x, whole_y = math.floor(origin_x), math.floor(origin_y)
    part_x, part_y = origin_x - whole_x, origin_y - whole_y
    if part_x or part_y:
        source = np.asarray(
            cv2.sepFilter2D(source, -1, shift_kernel(part_x), shift_kernel(part_y), anchor=(1, 1)), np.uint8
        )
    return source[whole_y:, whole_x:]


def shift_kernel(part: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weights of the px at -1, 0, 1, 2 for the value at `part`, 0 <= part < 1.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 15 with a = -1/2.
    """
    near = np.abs(np.array([0.0, 1.0]) - part)
    far = np.abs(np.array([-1.0, 2.0]) - part)
    inner = 1.5 * near**3 - 2.5 * near**2 + 1
    outer = -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
    return np.array([outer[0], inner[0], inner[1], outer[1]])


def _span(start: float, step: float, length_px: int, margin: int) -> tuple[int, float, int]:
    """First px, offset of the output's edge from it, and number of px, along one axis."""
    start = float(round(start)) if _on_lattice(start) else start
    margin *= max(1, int(step))  # so many are left of it after the averaging
    first = math.floor(start) - (0 if start.is_integer() else margin)
    origin = start - first
    return first, origin, math.ceil(origin + length_px * step - _SAME) + margin


def _on_lattice(position: float) -> bool:
    return abs(position - round(position)) < _SAME


def _snap(step: float) -> float:
    """The whole number that a step is meant to be, where it is that close to one."""
    return float(round(step)) if round(step) >= 1 and abs(step / round(step) - 1) < _SAME else step
