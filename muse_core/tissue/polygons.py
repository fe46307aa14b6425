"""A mask's regions as polygons in level-0 px."""

from collections.abc import Iterable

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from muse_core.geometry import Frame
from muse_core.tissue.settings import TissueSettings


def mask_to_polygons(mask: NDArray[np.bool_], frame: Frame, settings: TissueSettings, *, mpp: float) -> list[Polygon]:
    """The regions of a mask as polygons along pixel edges, holes kept, largest first.

    Args:
        mask: bool (H, W).
        frame: where the mask's pixels lie on level 0.
        settings: area filters and simplification.
        mpp: µm/px of the mask (both axes).

    Returns:
        Valid polygons in level-0 px.
    """
    min_hole_px = settings.min_hole_area_um2 / mpp**2
    regions = []
    for region in _trace(mask):
        holes = [hole for hole in region.interiors if Polygon(hole).area >= min_hole_px]
        simple = Polygon(region.exterior, holes).simplify(settings.simplify_um / mpp)
        regions.extend(polygon_parts(simple))
    # A slide cut down to one field of view may be smaller than any piece worth keeping on a whole one.
    min_area_px = min(settings.min_area_um2 / mpp**2, mask.size / 4)
    kept = [region for region in regions if region.area >= min_area_px]
    moved = [shapely.transform(region, frame.to_level0) for region in kept]
    return sorted(moved, key=lambda region: -region.area)


def polygon_parts(geometry: BaseGeometry) -> list[Polygon]:
    """The valid polygons of any geometry, repaired where rings cross; points and lines are left out."""
    valid = shapely.make_valid(geometry)
    return [
        part for part in shapely.get_parts(shapely.get_parts(valid)) if part.geom_type == "Polygon" and part.area > 0
    ]


def clip_polygons(polygons: Iterable[BaseGeometry], width: float, height: float) -> list[Polygon]:
    """The parts of polygons within [0, width] x [0, height], none overlapping another."""
    parts = [part for polygon in polygons for part in polygon_parts(polygon)]
    merged = shapely.union_all(parts) if parts else MultiPolygon()
    return polygon_parts(shapely.intersection(merged, shapely.box(0, 0, width, height)))


def _trace(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Regions of a mask as polygons in mask px, along the outer edges of their pixels."""
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None:
        return []
    holes: dict[int, list[int]] = {}
    for index, (_, _, _, parent) in enumerate(hierarchy[0]):
        holes.setdefault(int(parent), []).append(index)
    regions: list[Polygon] = []
    for outer in holes.get(-1, []):
        shell = contours[outer][:, 0, :]
        if len(shell) < 3:  # a line one pixel wide: no tissue
            continue
        rings = [contours[hole][:, 0, :] for hole in holes.get(outer, []) if len(contours[hole]) > 2]
        # OpenCV runs through pixel centres, half a pixel inside the edge; holes run through their rim's centres.
        centres = shapely.transform(Polygon(shell, rings), lambda xy: xy + 0.5)
        edges = shapely.make_valid(centres).buffer(0.5, join_style="mitre", mitre_limit=2.0)
        regions.extend(polygon_parts(edges))
    return regions
