"""The part of a slide that pictures and maps show, and the outline of its tissue; both in µm."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset, read_regions

_RIM = 0.04  # of the longer side, around the tissue
_OUTLINE_STEPS = 800  # details finer than this share of the longer side are no longer seen


@dataclass(frozen=True)
class View:
    """What is shown of a slide.

    Attributes:
        box_um: the rectangle around the tissue.
        tissue_um: the tissue's polygons; None where they are not known.
        slide_mpp: µm per level-0 px along x and y.
        mpp_override: what the slide must be opened with; None where its file says its µm/px itself.
        scene: which of several pictures in the file; None for the largest.
    """

    box_um: Box
    tissue_um: BaseGeometry | None
    slide_mpp: tuple[float, float]
    mpp_override: float | None = None
    scene: int | None = None

    @property
    def outline(self) -> str:
        """The tissue as the path of an SVG in µm; empty where it is not known."""
        if self.tissue_um is None:
            return ""
        simple = self.tissue_um.simplify(max(self.box_um.width, self.box_um.height) / _OUTLINE_STEPS)
        rings = [ring for part in shapely.get_parts(simple) for ring in (part.exterior, *part.interiors)]
        return " ".join("M" + " ".join(f"{x:.0f},{y:.0f}" for x, y in ring.coords[:-1]) + "Z" for ring in rings)

    @property
    def scale_bar_um(self) -> float:
        """A round length, about a sixth of the width."""
        return _round_length(self.box_um.width / 6)


def view_of(
    dataset: NucleiDataset, slide_id: str, tissue: Path, size_level0: tuple[float, float] | None = None
) -> View:
    """What to show of a slide: its tissue, or where its nuclei are.

    Args:
        dataset: the nuclei.
        slide_id: the slide.
        tissue: its polygons as GeoJSON in level-0 px; the file may be missing.
        size_level0: width and height of the slide, beyond which nothing is shown; None where it is not known.
    """
    part = dataset.part(slide_id)
    area = None
    if tissue.exists():
        found = [region.area_level0 for region in read_regions(tissue, {}, origin_level0=(0.0, 0.0))]
        area = shapely.transform(shapely.union_all(found), lambda xy: xy * part.slide_mpp) if found else None
    bounds = area.bounds if area is not None else _bounds_of_nuclei(dataset, slide_id)
    left, top, right, bottom = bounds
    rim = _RIM * max(right - left, bottom - top, 1.0)
    width, height = (math.inf, math.inf) if size_level0 is None else np.multiply(size_level0, part.slide_mpp).tolist()
    left, top, right, bottom = (
        max(0.0, left - rim),
        max(0.0, top - rim),
        min(width, right + rim),
        min(height, bottom + rim),
    )
    override = part.slide_mpp[0] if part.provenance.get("mpp_source") == "override" else None
    return View(
        Box(left, top, right - left, bottom - top), area, part.slide_mpp, override, part.provenance.get("scene")
    )


def _bounds_of_nuclei(dataset: NucleiDataset, slide_id: str) -> tuple[float, float, float, float]:
    bounds = np.concatenate([part.bounds_level0 for part in dataset.parts(slide_id)])
    if not len(bounds):
        return 0.0, 0.0, 1000.0, 1000.0
    mpp = np.array(dataset.part(slide_id).slide_mpp)
    (left, top), (right, bottom) = bounds[:, :2].min(axis=0) * mpp, bounds[:, 2:].max(axis=0) * mpp
    return float(left), float(top), float(right), float(bottom)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... not above a length."""
    power = 10.0 ** math.floor(math.log10(length))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= length * (1 + 1e-9))
