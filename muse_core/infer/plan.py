"""What of a slide is looked at, before a pixel is read at full size."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import shapely
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from muse_core.cohort.job import opened
from muse_core.errors import MppError, TissueError, figure
from muse_core.infer.job import InferJob, InferPlan
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import read_regions
from muse_core.slide import Slide, SlideInfo
from muse_core.tissue import Tissue, find_tissue, read_tissue, write_tissue

IMAGE_READER = "pillow"  # of PNG and JPEG images


def plan_slide(job: InferJob) -> InferPlan:
    """Open the slide and find its tissue; a plan already staged is read back.

    Raises:
        SlideReadError, MppError: the file or its µm/px is of no use.
        TissueError: there is no tissue, or no region lies on the slide.
        DatasetError: given polygons are none.
    """
    if job.staged_plan.exists() and job.staged_tissue.exists():
        return InferPlan(**json.loads(job.staged_plan.read_text(encoding="utf-8")))
    with opened(job) as (slide, facts):
        _check_mpp(slide, job.settings.coarsest_mpp)
        tissue = _tissue(slide, job)
        facts["glass_rgb"] = _glass(tissue)
        with whole_file(job.staged_tissue) as file:
            write_tissue(tissue, file)
        area = Area(slide, job)
    plan = InferPlan(facts, area.tissue_mm2)
    with whole_file(job.staged_plan) as file:
        file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    return plan


def _check_mpp(slide: Slide, coarsest: float) -> None:
    mpp = max(slide.info.mpp.x, slide.info.mpp.y)
    if mpp > coarsest:
        raise MppError(
            f"{slide.info.path}: {figure(mpp, coarsest)} µm/px ({slide.info.mpp.source}) is too coarse to see nuclei; "
            f"{figure(coarsest)} or finer needed, or set coarsest_mpp",
            reason="mpp_too_coarse",
        )


def _tissue(slide: Slide, job: InferJob) -> Tissue:
    """The tissue that is looked at: with regions what lies in them, which may be none."""
    tissue = _whole_tissue(slide, job)
    if job.regions is None:
        return tissue
    inside = shapely.intersection(_work_in_regions(job.regions, slide.info), shapely.union_all(list(tissue.polygons)))
    polygons = tuple(part for part in shapely.get_parts(inside) if part.area > 0)
    return replace(tissue, polygons=polygons, source=f"{tissue.source}, in {job.regions.name}")


def _glass(tissue: Tissue) -> list[float] | None:
    """RGB 0..255 of the slide's glass; None where nobody looked for tissue, and so for glass."""
    return [round(value, 1) for value in tissue.background] if tissue.source.startswith("found") else None


def _whole_tissue(slide: Slide, job: InferJob) -> Tissue:
    if job.tissue_edited:
        return read_tissue(job.tissue_edited, slide.info)
    if slide.info.reader == IMAGE_READER and job.settings.whole_images:
        return Tissue((shapely.box(0, 0, slide.info.width_level0, slide.info.height_level0),), source="whole image")
    return find_tissue(slide, job.settings.tissue)


def _regions(path: Path, info: SlideInfo) -> BaseGeometry:
    """Regions as QuPath exports them, counted from the scanner's bounds, in level-0 px."""
    origin = (info.bounds_level0.x, info.bounds_level0.y) if info.bounds_level0 else (0.0, 0.0)
    return shapely.union_all([one.area_level0 for one in read_regions(path, {}, origin_level0=origin)])


def _work_in_regions(path: Path, info: SlideInfo) -> BaseGeometry:
    work = shapely.intersection(_regions(path, info), _whole(info))
    if work.is_empty:
        raise TissueError(f"{path}: no region lies on slide {info.path.name}; draw at least one")
    return work


def _whole(info: SlideInfo) -> Polygon:
    return shapely.box(0, 0, info.width_level0, info.height_level0)


class Area:
    """Where nuclei are looked for, and where they are in tissue; level-0 px."""

    def __init__(self, slide: Slide, job: InferJob) -> None:
        info = slide.info
        staged = read_regions(job.staged_tissue, {}, origin_level0=(0.0, 0.0))  # with regions there may be none
        self.tissue = shapely.union_all([one.area_level0 for one in staged])
        self.tissue_mm2 = float(self.tissue.area) * info.mpp.x * info.mpp.y * 1e-6
        if job.regions is not None:
            self.work = _work_in_regions(job.regions, info)
        else:
            edge_px = job.settings.edge_um / min(info.mpp.x, info.mpp.y)
            self.work = shapely.intersection(self.tissue.buffer(edge_px), _whole(info))
        shapely.prepare(self.tissue)
        shapely.prepare(self.work)
