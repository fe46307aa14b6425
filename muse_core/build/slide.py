"""One slide to its staged ROI rows: plan, build in chunks. Each step is picklable and may run in any process.

plan_slide     slide file -> BuildPlan (tissue, ROI boxes, stain sample), kept as JSON in the staging folder
build_chunk    BuildPlan + chunk number -> one Parquet part in the staging folder
"""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse_core.build.job import BuildJob, BuildPlan, ChunkResult
from muse_core.build.roi import build_roi, copyable_tiles
from muse_core.build.rois import RoiBox, select_rois
from muse_core.build.settings import BuildSettings
from muse_core.cohort.job import opened
from muse_core.detector.detect import Detector, adapted, load_detector
from muse_core.errors import SlideReadError
from muse_core.images.stain import SAMPLE_MPP
from muse_core.machine.files import whole_file
from muse_core.roi_dataset.image import TILED_JPEG
from muse_core.roi_dataset.write import RoiRow, write_rois
from muse_core.slide import Slide, open_slide
from muse_core.tissue import Overview, Tissue, find_tissue, read_overview, read_tissue, tissue_area_mm2, write_tissue

logger = logging.getLogger(__name__)

STAIN_SAMPLE_PX = 192
STAIN_SAMPLE_ROIS = 12


def plan_slide(job: BuildJob) -> BuildPlan:
    """Open the slide, find its tissue, choose its ROIs and take a stain sample; a plan already staged is read back.

    Raises:
        SlideReadError, MppError: the file or its µm/px is of no use.
        TissueError: there is no tissue, or no room for a ROI.
    """
    if job.staged_plan.exists():
        return _read_plan(job.staged_plan)
    with opened(job) as (slide, facts):
        plan, tissue, sample = _plan(slide, job, facts)
    with whole_file(job.staged_tissue) as file:
        write_tissue(tissue, file)
    with whole_file(job.folder / "stain.npy") as file:
        file.write_bytes(_npy(sample))
    with whole_file(job.staged_plan) as file:
        file.write_text(json.dumps({**asdict(plan), "boxes": [asdict(box) for box in plan.boxes]}), encoding="utf-8")
    logger.info("%s: %.2f mm2 of tissue, %d ROIs", job.slide_id, plan.tissue_mm2, len(plan.boxes))
    return plan


def build_chunk(job: BuildJob, facts: dict[str, Any], chunk: int, numbered: list[tuple[int, RoiBox]]) -> ChunkResult:
    """Write the rows of one chunk of ROIs to the staging folder; a chunk already staged is not built again.

    A ROI that cannot be read is left out and named in the result; the slide goes on.

    Args:
        job: the slide.
        facts: what the plan says of the file.
        chunk: its number.
        numbered: its ROIs with their numbers.

    Raises:
        SlideReadError: the slide no longer opens.
        OutputError: the disk is full.
    """
    part = job.staged_part(chunk)
    done = part.with_suffix(".json")
    if done.exists():
        return _read_result(done)
    failed: list[tuple[str, str]] = []
    with open_slide(
        job.path, mpp_override=job.mpp_override, reader=facts["reader"], device=job.device, scene=job.scene
    ) as slide:
        n_rois, n_nuclei = write_rois(part, _rows(slide, job, numbered, failed), _provenance(job, facts))
    result = ChunkResult(n_rois, n_nuclei, tuple(failed))
    with whole_file(done) as file:
        file.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return result


def _overview(slide: Slide, settings: BuildSettings) -> Overview:
    """One overview, fine enough for tissue and ROIs; the same whether tissue is to be found or is given."""
    mpp = min(settings.tissue.overview_mpp, settings.rois.richness_mpp)
    return read_overview(slide, mpp, max_px=min(settings.tissue.max_overview_px, settings.rois.max_overview_px))


def _plan(slide: Slide, job: BuildJob, facts: dict[str, Any]) -> tuple[BuildPlan, Tissue, NDArray[np.uint8]]:
    overview = _overview(slide, job.settings)
    tissue = _tissue_of(slide, job, overview)
    boxes = tuple(select_rois(slide, tissue, job.settings.rois, key=job.slide_id, overview=overview))
    area_mm2 = tissue_area_mm2(tissue, slide.info.mpp.x, slide.info.mpp.y)
    return BuildPlan(facts, area_mm2, boxes), tissue, _stain_sample(slide, boxes)


def _tissue_of(slide: Slide, job: BuildJob, overview: Overview) -> Tissue:
    if job.tissue_edited is not None:
        return read_tissue(job.tissue_edited, slide.info)
    return find_tissue(slide, job.settings.tissue, overview=overview)


def _stain_sample(slide: Slide, boxes: tuple[RoiBox, ...]) -> NDArray[np.uint8]:
    """RGB pixels (n, 3) from the middle of evenly spread ROIs: what a detector adapts to."""
    chosen = [boxes[i] for i in np.linspace(0, len(boxes) - 1, min(len(boxes), STAIN_SAMPLE_ROIS)).astype(int)]
    side = STAIN_SAMPLE_PX
    windows = []
    for box in chosen:
        half_x, half_y = (side * SAMPLE_MPP / 2 / mpp for mpp in (slide.info.mpp.x, slide.info.mpp.y))
        x_level0, y_level0 = box.x_level0 + box.width_level0 / 2 - half_x, box.y_level0 + box.height_level0 / 2 - half_y
        try:
            windows.append(slide.read_region(x_level0, y_level0, side, side, mpp=SAMPLE_MPP).reshape(-1, 3))
        except SlideReadError as error:
            logger.warning("stain sample: %s", error)
    return np.concatenate(windows) if windows else np.empty((0, 3), np.uint8)


def _npy(array: NDArray[np.uint8]) -> bytes:
    # numpy's own writing to a file loses the errno that tells a full disk.
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _rows(
    slide: Slide, job: BuildJob, numbered: list[tuple[int, RoiBox]], failed: list[tuple[str, str]]
) -> Iterator[RoiRow]:
    detector = _slide_detector(job)
    mpp = numbered[0][1].mpp  # one for all ROIs of a slide
    with copyable_tiles(slide, mpp) if job.settings.image.copy_tiles else nullcontext() as tiles:
        for number, box in numbered:
            roi_id = f"{job.slide_id}_{number:05d}"
            try:
                image, nuclei = build_roi(slide, box, detector, tiles, job.settings.image)
            except SlideReadError as error:
                logger.warning("%s: %s", roi_id, error)
                failed.append((roi_id, str(error)))
                continue
            yield _row(job, roi_id, box, image, nuclei)


def _row(job: BuildJob, roi_id: str, box: RoiBox, image: bytes, nuclei: NDArray[np.float32] | None) -> RoiRow:
    return RoiRow(
        roi_id=roi_id,
        slide_id=job.slide_id,
        case_id=job.case_id,
        project=job.project,
        x_level0=box.x_level0,
        y_level0=box.y_level0,
        width_level0=box.width_level0,
        height_level0=box.height_level0,
        mpp=box.mpp,
        width_px=box.width_px,
        height_px=box.height_px,
        tissue_fraction=box.tissue_fraction,
        nuclei=nuclei,
        image=image,
        image_format=TILED_JPEG,
    )


def _slide_detector(job: BuildJob) -> Detector | None:
    if job.settings.detector == "none":
        return None
    return adapted(load_detector(job.settings.detector), np.load(job.folder / "stain.npy", allow_pickle=False))


def _provenance(job: BuildJob, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "slide_id": job.slide_id,
        "inputs_hash": job.inputs_hash,
        "settings": job.settings.model_dump(mode="json", exclude={"acquire", "contact_sheets"}),
        **{key: facts[key] for key in ("md5", "reader", "reader_check", "mpp_x", "mpp_y", "mpp_source", "scene")},
    }


def _read_plan(path: Path) -> BuildPlan:
    values = json.loads(path.read_text(encoding="utf-8"))
    return BuildPlan(values["facts"], values["tissue_mm2"], tuple(RoiBox(**box) for box in values["boxes"]))


def _read_result(path: Path) -> ChunkResult:
    values = json.loads(path.read_text(encoding="utf-8"))
    return ChunkResult(values["n_rois"], values["n_nuclei"], tuple((roi_id, text) for roi_id, text in values["failed"]))
