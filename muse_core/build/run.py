"""build-tcga-nu: a manifest of slides to the ROI dataset.

    file ─ plan, then chunks, on workers ─▶ staged parts ─ commit ─▶ parts, contact sheet

What is common to all runs over a cohort is `muse_core.cohort.run`'s.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from muse_core.build.contact_sheet import draw_contact_sheet
from muse_core.build.job import BuildJob, BuildPlan, ChunkResult
from muse_core.build.settings import BuildSettings
from muse_core.build.slide import build_chunk, plan_slide
from muse_core.build.summary import BuildSummary
from muse_core.cohort.inputs import hash_of_inputs
from muse_core.cohort.job import SlideJob
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.options import CohortOptions
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun, open_cohort
from muse_core.cohort.staging import remove_files
from muse_core.cohort.summary import summarise
from muse_core.cohort.work import Commit, Tell
from muse_core.detector.detect import SHIPPED_DETECTORS, load_detector
from muse_core.errors import DatasetError, SlideReadError
from muse_core.machine.files import safe_name
from muse_core.machine.workers import WorkerError, Workers, tried, value_of
from muse_core.roi_dataset.write import part_path, parts_by_slide, parts_of_slide
from muse_core.schemas import SLIDES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildOptions(CohortOptions):
    """How a build is carried out.

    Attributes:
        workers: local worker processes; None for one a usable core, 0 for this process alone.
        dask_scheduler: address of a Dask scheduler to use instead.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once, partial ones included; None for
            the setting `acquire.max_slides_on_disk`.
    """

    command: ClassVar[str] = "build-tcga-nu"
    workers: int | None = None
    dask_scheduler: str | None = None
    max_slides_on_disk: int | None = None


class BuildWork:
    """What a build does to a slide."""

    schema = SLIDES
    counted = ("n_rois", "n_nuclei")

    def __init__(self, options: BuildOptions, settings: BuildSettings, workers: Workers) -> None:
        self.settings = settings
        self._options = options
        self._paths = options.output.paths
        self._executor = workers.executor
        # Nobody else writes while the folder is locked; where it is shared, parts are looked for slide by slide.
        self._parts = {} if options.share else parts_by_slide(options.out)

    def check_together(self, manifest: Manifest, earlier: list[SlideRecord]) -> None:
        """Any slides go together."""

    def inputs_hash(self, row: ManifestRow) -> str:
        """Settings, weights, tissue polygons and the file."""
        edited = self._options.tissue_files.of(row)
        return hash_of_inputs(row, depends_on=[self.settings.tables_hash()], edited=edited)

    def rules(self) -> str:
        """Settings and weights."""
        return self.settings.tables_hash()

    def pieces(self) -> str:
        """ROIs a part."""
        return str(self.settings.chunk_rois)

    def check_wanted(self, row: ManifestRow) -> None:
        """Every slide is."""

    def do(self, row: ManifestRow, job: SlideJob, commit: Commit, tell: Tell) -> dict[str, Any]:
        """Plan, build in chunks, commit, draw; told of ROIs, chunk by chunk."""
        return self._build(BuildJob(**vars(job), settings=self.settings), commit, tell)

    def clear(self, slide_id: str) -> None:
        """Parts, picture and tissue."""
        remove_files(self._parts_of(slide_id))
        self._paths.contact_sheet(slide_id).unlink(missing_ok=True)
        self._paths.tissue(slide_id).unlink(missing_ok=True)

    def held(self, known: SlideRecord) -> str:
        """ROIs."""
        return f"{known.row['n_rois']} ROIs"

    def sum_up(self, records: list[SlideRecord], seconds: float) -> BuildSummary:
        """Counts, and the pace over the tissue of slides that this run built."""
        summary = summarise(records, BuildSummary())
        summary.seconds = seconds
        built_mm2 = sum(record.row.get("tissue_mm2") or 0.0 for record in records if not record.reused)
        summary.seconds_per_mm2 = seconds / built_mm2 if built_mm2 else None
        return summary

    def _parts_of(self, slide_id: str) -> list[Path]:
        if self._options.share:
            return parts_of_slide(self._paths.out, slide_id)
        return self._parts.get(safe_name(slide_id), [])

    def _build(self, job: BuildJob, commit: Commit, tell: Tell) -> dict[str, Any]:
        plan: BuildPlan = value_of(self._executor.submit(tried, plan_slide, job))
        results = _build_chunks(self._executor, job, plan, tell)
        failed = sorted(pair for result in results for pair in result.failed)
        if len(failed) == len(plan.boxes):
            raise SlideReadError(f"{job.path}: none of its {len(failed)} ROIs could be read: {failed[0][1]}")
        out = self._paths.out.absolute()
        moves = [
            (job.staged_part(chunk), part_path(out, job.project, job.slide_id, chunk))
            for chunk, result in enumerate(results)
            if result.n_rois
        ]
        commit(moves, self._parts_of(job.slide_id))
        parts = [final for _, final in moves]
        if self.settings.contact_sheets:
            self._draw(job, plan, parts)
        return {
            **plan.facts,
            "parts": tuple(str(part.relative_to(out)) for part in parts),
            "tissue_mm2": plan.tissue_mm2,
            "n_rois": sum(result.n_rois for result in results),
            "n_nuclei": sum(result.n_nuclei for result in results),
            "n_failed_rois": len(failed),
            "reason": "bad_tiles" if failed else None,
            "message": f"{len(failed)} of {len(plan.boxes)} ROIs could not be read: {failed[0][1]}" if failed else None,
        }

    def _draw(self, job: BuildJob, plan: BuildPlan, parts: list[Path]) -> None:
        sheet_file = self._paths.contact_sheet(job.slide_id).absolute()
        try:
            value_of(self._executor.submit(tried, draw_contact_sheet, job, plan, parts, sheet_file))
        except (SlideReadError, DatasetError, WorkerError) as error:
            logger.warning("%s: no contact sheet: %s", job.slide_id, error)  # the dataset is whole without it


@contextmanager
def open_build(options: BuildOptions, settings: BuildSettings) -> Iterator[CohortRun[BuildSummary]]:
    """Lock the output folder, start the workers, and clean up at the end.

    Raises:
        OutputError: the folder is locked, read-only or full, or another command's.
        ConfigError: the detector, the tissue folder, the worker count or the scheduler is of no use.
    """
    if settings.detector not in SHIPPED_DETECTORS:
        load_detector(settings.detector)  # a name that cannot be loaded should not fail slide after slide
    work = partial(BuildWork, options, settings)
    with open_cohort(
        options,
        work,
        settings.acquire,
        dask_scheduler=options.dask_scheduler,
        max_slides_on_disk=options.max_slides_on_disk,
    ) as run:
        yield run


def _build_chunks(executor: Executor, job: BuildJob, plan: BuildPlan, tell: Tell) -> list[ChunkResult]:
    pieces = enumerate(plan.chunked(job.settings.chunk_rois))
    futures = [executor.submit(tried, build_chunk, job, plan.facts, chunk, boxes) for chunk, boxes in pieces]
    for future in as_completed(futures):
        tell(value_of(future).n_rois)
    return [value_of(future) for future in futures]
