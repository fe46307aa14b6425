"""How large a slide's ROIs are on level 0, and where their corners may lie."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.build.rois.settings import RoiSettings
from muse_core.errors import MppError, TissueError, figure
from muse_core.slide import Level, SlideInfo

_SAME_MPP = 1e-6  # relative; metadata holds this many digits


@dataclass(frozen=True)
class RoiShape:
    """The size of every ROI of a slide, and the lattice of its corners.

    Attributes:
        width_px: width in ROI px.
        height_px: height in ROI px.
        mpp: µm per ROI px.
        width_level0: width in level-0 px, a float where mpp and the slide's differ.
        height_level0: height in level-0 px.
        level: the level whose own pixels a ROI holds; None where it is resampled.
        unit_x: corners lie at multiples of this many level-0 px: 1 where ROIs are resampled; else a level px, or a
            tile's width where that is known, so that compressed tiles can be copied unchanged.
        unit_y: the same along y.
    """

    width_px: int
    height_px: int
    mpp: float
    width_level0: float
    height_level0: float
    level: int | None = None
    unit_x: int = 1
    unit_y: int = 1


def roi_shape(info: SlideInfo, settings: RoiSettings) -> RoiShape:
    """Fix size, µm/px and lattice of a slide's ROIs.

    Raises:
        MppError: reason mpp_too_coarse: the slide would have to be enlarged too much.
        TissueError: reason no_rois: the slide is smaller than the smallest ROI.
    """
    slide_mpp = info.mpp
    coarsest = max(slide_mpp.x, slide_mpp.y)
    if coarsest > settings.mpp * settings.max_upsampling:
        raise MppError(
            f"{info.path}: {figure(coarsest, settings.mpp * settings.max_upsampling)} um/px is too coarse for ROIs at "
            f"{figure(settings.mpp)} um/px (at most {figure(settings.max_upsampling)} times as coarse); set "
            "rois.mpp nearer to the slide's, or correct its mpp",
            reason="mpp_too_coarse",
        )
    number = _native_level(info, settings)
    level = None if number is None else info.levels[number]
    if level is None:
        scale_x, scale_y, mpp = settings.mpp / slide_mpp.x, settings.mpp / slide_mpp.y, settings.mpp
    else:
        scale_x, scale_y, mpp = level.downsample_x, level.downsample_y, level_mpp(info, level)
    width_px = min(settings.size_px, int(info.width_level0 / scale_x + 1e-9))
    height_px = min(settings.size_px, int(info.height_level0 / scale_y + 1e-9))
    if min(width_px, height_px) < min(settings.min_size_px, settings.size_px):
        raise TissueError(
            f"{info.path}: no ROIs: the slide is {width_px} x {height_px} px at {mpp:g} um/px and a ROI needs at least "
            f"{settings.min_size_px} px a side; lower rois.min_size_px",
            reason="no_rois",
        )
    unit_x = int(scale_x) * max(level.tile_width, 1) if level else 1
    unit_y = int(scale_y) * max(level.tile_height, 1) if level else 1
    return RoiShape(width_px, height_px, mpp, width_px * scale_x, height_px * scale_y, number, unit_x, unit_y)


def level_mpp(info: SlideInfo, level: Level) -> float:
    """The µm/px of ROIs that hold a level's own pixels: the geometric mean of its two axes."""
    return math.sqrt(info.mpp.x * level.downsample_x * info.mpp.y * level.downsample_y)


def corner_positions(
    extent_level0: int, length_level0: float, unit: int, *, near: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Where a ROI may begin along one axis.

    Args:
        extent_level0: length of the slide.
        length_level0: length of a ROI.
        unit: positions are multiples of this.
        near: (N, 2) begin and end of pieces of tissue, most important first; the first is the whole. ROIs are laid from
            its begin, and tried at the begin and end of each.
        count: shifted positions for each ROI's length.

    Returns:
        Sorted distinct int64 level-0 px, each with the ROI inside the slide. Steps repeat with the shortest multiple of
        `unit` that holds a ROI, so that ROIs laid end to end are among them.
    """
    last = int((extent_level0 - length_level0 + 1e-6) // unit)
    pitch = int(np.ceil(length_level0 / unit - 1e-9))
    begins, ends = near.T
    anchor = int(np.floor(begins[0] / unit))
    n_before, n_after = -(-anchor // pitch), -(-(last - anchor) // pitch)
    steps = np.arange(-n_before * count, (n_after + 1) * count)
    lattice = anchor + (steps * pitch) // count
    flush = np.concatenate([np.floor(begins / unit), np.floor((ends - length_level0) / unit)]).astype(np.int64)
    reach = (int(np.floor(begins[0] / unit)) - pitch, int(np.ceil(ends[0] / unit)))
    candidates = np.unique(np.clip(np.concatenate([lattice, flush]), 0, last))
    return candidates[(candidates >= reach[0]) & (candidates <= reach[1])] * unit


def _native_level(info: SlideInfo, settings: RoiSettings) -> int | None:
    """The level whose own pixels serve as the ROI's; its pixels must begin on those of level 0, as ROIs do."""
    tolerance = max(settings.native_mpp_tolerance, _SAME_MPP)
    for number, level in enumerate(info.levels):
        ratios = (
            info.mpp.x * level.downsample_x / settings.mpp,
            info.mpp.y * level.downsample_y / settings.mpp,
        )
        whole = level.downsample_x == int(level.downsample_x) and level.downsample_y == int(level.downsample_y)
        if whole and all(abs(ratio - 1) <= tolerance for ratio in ratios):
            return number
    return None
