"""A slide's ROIs: candidates at many shifts, measured on coarse maps, chosen, and checked exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from muse_core.build.rois.choose import Candidates, choose
from muse_core.build.rois.maps import TissueMaps, tissue_maps, window_sums
from muse_core.build.rois.settings import RoiSettings
from muse_core.build.rois.shape import RoiShape, corner_positions, roi_shape
from muse_core.errors import TissueError, percent
from muse_core.slide import Slide, SlideInfo
from muse_core.tissue import Overview, Tissue, read_overview

_DECIMALS = 9  # of a tissue fraction; beyond is the rounding of intersections, which would make 1 a little less
_TEXTURE_WEIGHT = 0.8  # of haematoxylin's texture in richness; the rest is its amount
_MAX_POINTS = 128  # of a piece of polygon that ROIs are intersected with
_TRIED_FOR_MESSAGE = 10  # the best by the coarse maps, of which the message names the best by geometry
_MAX_PIECES = 8  # pieces of tissue whose own edges are tried as positions; the rest lies near the lattice anyway


@dataclass(frozen=True)
class RoiBox:
    """One ROI.

    Attributes:
        x_level0: left edge, level-0 px, integral.
        y_level0: top edge, level-0 px, integral.
        width_level0: width in level-0 px.
        height_level0: height in level-0 px.
        width_px: width in ROI px.
        height_px: height in ROI px.
        mpp: µm per ROI px; the geometric mean of both axes, which differ where a level's own pixels aren't square. The
            exact scale of an axis is `width_level0 / width_px`.
        tissue_fraction: share of its area within the tissue polygons, exact, 0..1.
        richness: how rich in nuclei it seems beside the slide's other candidates, 0..1.
        level: the level whose own pixels it holds, its corner on their lattice; None where it is resampled to `mpp`.
    """

    x_level0: float
    y_level0: float
    width_level0: float
    height_level0: float
    width_px: int
    height_px: int
    mpp: float
    tissue_fraction: float
    richness: float
    level: int | None = None


def select_rois(
    slide: Slide, tissue: Tissue, settings: RoiSettings, *, key: str, overview: Overview | None = None
) -> list[RoiBox]:
    """Choose a slide's ROIs.

    Args:
        slide: an open slide of known mpp.
        tissue: its tissue.
        settings: size, number and choice.
        key: the slide's id; with the seed it fixes the choice, whatever other slides there are.
        overview: the slide's overview where it has been read already, reduced here to about `settings.richness_mpp`.

    Returns:
        At least one ROI, at most `max_per_slide`, from top to bottom; none overlap, all lie inside the slide.

    Raises:
        MppError: reason mpp_too_coarse.
        TissueError: reason no_rois: the slide is too small, or no position has enough tissue.
        SlideReadError: the overview cannot be read.
    """
    info = slide.info
    shape = roi_shape(info, settings)
    if overview is None:
        overview = read_overview(slide, settings.richness_mpp, max_px=settings.max_overview_px)
    overview = overview.reduced(settings.richness_mpp)
    maps = tissue_maps(overview.rgb, tissue.polygons, overview.frame, mpp=overview.mpp, background=tissue.background)
    return choose_boxes(info, shape, tissue.polygons, maps, settings=settings, key=key)


def choose_boxes(
    info: SlideInfo,
    shape: RoiShape,
    polygons: Sequence[Polygon],
    maps: TissueMaps,
    *,
    settings: RoiSettings,
    key: str,
) -> list[RoiBox]:
    """As `select_rois`, from maps instead of pixels."""
    x, y = _positions(info, shape, polygons, settings)
    candidates, coarse = _measure(x, y, shape, maps)
    pieces = [piece for polygon in polygons for piece in _diced(polygon)]
    # Tissue and ROI may end within one cell, on each side: the coarse fraction is off by a cell's width in all at most.
    error = max(maps.frame.scale_x / shape.width_level0, maps.frame.scale_y / shape.height_level0)
    doubtful = np.flatnonzero(np.abs(coarse - settings.min_tissue_fraction) <= error)
    fractions = coarse.copy()
    fractions[doubtful] = tissue_fractions(pieces, candidates.x[doubtful], candidates.y[doubtful], shape)
    enough = np.flatnonzero(fractions >= settings.min_tissue_fraction)
    if len(enough):
        rng = np.random.default_rng(int.from_bytes(sha256(f"{settings.seed}:{key}".encode()).digest()[:8], "big"))
        chosen = enough[choose(candidates.at(enough), settings.max_per_slide, diversity=settings.diversity, rng=rng)]
        exact = tissue_fractions(pieces, candidates.x[chosen], candidates.y[chosen], shape)
        kept = exact >= settings.min_tissue_fraction  # an outline finer than the maps can still tip one over
        if kept.any():
            return _boxes(candidates, chosen[kept], exact[kept], shape)
    nearest = np.argsort(-coarse)[:_TRIED_FOR_MESSAGE]
    best = float(tissue_fractions(pieces, candidates.x[nearest], candidates.y[nearest], shape).max())
    raise TissueError(_no_room(info, shape, len(coarse), best, settings=settings), reason="no_rois")


def tissue_fractions(
    polygons: Sequence[BaseGeometry], x: NDArray[np.int64], y: NDArray[np.int64], shape: RoiShape
) -> NDArray[np.float64]:
    """Share of ROIs' areas within disjoint polygons, from their geometry.

    Args:
        polygons: valid, disjoint, level-0 px.
        x: (N,) left edges, level-0 px.
        y: (N,) top edges.
        shape: the size of every ROI.

    Returns:
        float64 (N,), 0..1.
    """
    boxes = shapely.box(x, y, x + shape.width_level0, y + shape.height_level0)
    pieces = np.asarray(polygons, object)
    box_index, piece_index = shapely.STRtree(pieces).query(boxes, predicate="intersects")
    covered = np.zeros(len(boxes))
    np.add.at(covered, box_index, shapely.area(shapely.intersection(boxes[box_index], pieces[piece_index])))
    return np.clip((covered / (shape.width_level0 * shape.height_level0)).round(_DECIMALS), 0.0, 1.0)


def _diced(geometry: BaseGeometry) -> list[BaseGeometry]:
    """A geometry cut into rectangles' worth of few points, since an intersection costs as much as its points."""
    if shapely.get_num_coordinates(geometry) <= _MAX_POINTS:
        return [geometry]
    left, top, right, bottom = geometry.bounds
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if right - left > bottom - top:
        halves = shapely.box(left, top, middle_x, bottom), shapely.box(middle_x, top, right, bottom)
    else:
        halves = shapely.box(left, top, right, middle_y), shapely.box(left, middle_y, right, bottom)
    return [piece for half in halves for piece in _diced(shapely.intersection(geometry, half))]


def _positions(
    info: SlideInfo, shape: RoiShape, polygons: Sequence[Polygon], settings: RoiSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Left edges and top edges; every pair is a candidate."""
    pieces = shapely.bounds(np.asarray(polygons[:_MAX_PIECES], object))
    left, top, right, bottom = np.concatenate([shapely.total_bounds(polygons)[None], pieces]).T
    for count in range(settings.positions_per_side, 0, -1):
        x = corner_positions(
            info.width_level0, shape.width_level0, shape.unit_x, near=np.stack([left, right], 1), count=count
        )
        y = corner_positions(
            info.height_level0, shape.height_level0, shape.unit_y, near=np.stack([top, bottom], 1), count=count
        )
        if len(x) * len(y) <= settings.max_positions:
            break
    return x, y


def _measure(
    x: NDArray[np.int64], y: NDArray[np.int64], shape: RoiShape, maps: TissueMaps
) -> tuple[Candidates, NDArray[np.float64]]:
    """Every pair of an x and a y with its richness and features, and its share of tissue as the coarse maps have it."""
    frame = maps.frame
    width, height = shape.width_level0 / frame.scale_x, shape.height_level0 / frame.scale_y
    columns = (x.astype(np.float64) - frame.x_level0) / frame.scale_x
    rows = (y.astype(np.float64) - frame.y_level0) / frame.scale_y
    tissue = window_sums(maps.tissue, columns, rows, width, height).ravel()
    sums = window_sums(maps.features, columns, rows, width, height).reshape(len(tissue), -1)
    features = sums / np.maximum(tissue, 1e-6)[:, None]
    coarse = tissue / (width * height)
    # Of the whole window, not of its tissue: a half-empty ROI holds half the nuclei.
    amount, texture = (_share_of_top(sums[:, index] / (width * height)) for index in (0, 1))
    richness = _TEXTURE_WEIGHT * texture + (1 - _TEXTURE_WEIGHT) * amount
    all_x, all_y = np.tile(x, len(y)), np.repeat(y, len(x))
    return Candidates(all_x, all_y, shape.width_level0, shape.height_level0, richness, features), coarse


def _share_of_top(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values as a share of the 99th percentile of the positive ones, so that one dark fold doesn't set the scale."""
    positive = values[values > 0]
    top = float(np.percentile(positive, 99)) if len(positive) else 1.0
    return np.clip(values / top, 0.0, 1.0)


def _boxes(
    candidates: Candidates, chosen: NDArray[np.int64], fractions: NDArray[np.float64], shape: RoiShape
) -> list[RoiBox]:
    order = np.lexsort([candidates.x[chosen], candidates.y[chosen]])
    return [
        RoiBox(
            x_level0=float(candidates.x[index]),
            y_level0=float(candidates.y[index]),
            width_level0=shape.width_level0,
            height_level0=shape.height_level0,
            width_px=shape.width_px,
            height_px=shape.height_px,
            mpp=shape.mpp,
            tissue_fraction=float(fraction),
            richness=float(candidates.richness[index]),
            level=shape.level,
        )
        for index, fraction in zip(chosen[order], fractions[order], strict=True)
    ]


def _no_room(info: SlideInfo, shape: RoiShape, n_tried: int, best: float, *, settings: RoiSettings) -> str:
    return (
        f"{info.path}: no ROIs: of {n_tried} positions of {shape.width_px} x {shape.height_px} px at "
        f"{shape.mpp:g} um/px the best is {percent(best, settings.min_tissue_fraction)} tissue and "
        f"{percent(settings.min_tissue_fraction)} is needed; lower "
        "rois.min_tissue_fraction or rois.size_px"
    )
