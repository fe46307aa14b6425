"""build-tcga-nu: a manifest of slides to the ROI dataset, slide by slide, each isolated from the others.

    manifest row ─ acquire ─▶ file ─ plan, then chunks, on workers ─▶ parts ─ commit ─▶ record ─▶ slides.parquet

A slide is finished when its record stands; whatever a killed run left before that is taken up again by the next.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_core.build.contact_sheet import draw_contact_sheet
from muse_core.build.job import ChunkResult, SlideJob, SlidePlan
from muse_core.build.settings import BuildSettings
from muse_core.build.slide import build_chunk, commit_parts, plan_slide
from muse_core.build.summary import BuildSummary
from muse_core.cohort.acquire import Acquired, SlideStore
from muse_core.cohort.inputs import edited_polygons, hash_of_inputs
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.paths import RunPaths, refuse_patches
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun, Fetch, Tell, tell_nobody
from muse_core.cohort.staging import drop_other_attempts, remove_files
from muse_core.cohort.summary import summarise
from muse_core.detector.detect import SHIPPED_DETECTORS, load_detector
from muse_core.errors import ConfigError, DatasetError, SlideReadError
from muse_core.machine.files import safe_name, sweep_temporaries, whole_file
from muse_core.machine.lock import locked
from muse_core.machine.workers import WorkerError, Workers, open_workers, tried, value_of
from muse_core.roi_dataset.write import parts_by_slide
from muse_core.schemas import SLIDES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How a run is carried out; none of it changes the tables, but that a GPU's pixels differ by rounding.

    Attributes:
        out: the output folder.
        device: `cpu` or `cuda`: where slides are decoded.
        workers: local worker processes; None for one a usable core, 0 for this process alone.
        dask_scheduler: address of a Dask scheduler to use instead.
        keep_slides: keep fetched slides; otherwise each is deleted after use.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once, partial ones included; None for
            the setting `acquire.max_slides_on_disk`.
        tissue_folder: edited tissue polygons `<slide_id>.geojson`, which replace those that would be found.
    """

    out: Path
    device: str = "cpu"
    workers: int | None = None
    dask_scheduler: str | None = None
    keep_slides: bool = True
    max_slides_on_disk: int | None = None
    tissue_folder: Path | None = None


class BuildRun(CohortRun):
    """One run over one output folder: its workers, its slide store. `open_build` makes it and holds the lock."""

    counted = ("n_rois", "n_nuclei")

    def __init__(self, options: BuildOptions, settings: BuildSettings, workers: Workers, store: SlideStore) -> None:
        super().__init__(RunPaths(options.out), workers, store, acquire=settings.acquire, schema=SLIDES)
        self.options = options
        self.settings = settings
        self._parts = parts_by_slide(options.out)  # nobody else writes while the folder is locked

    def build(self, row: ManifestRow, *, fetch: Fetch | None = None, on_rois: Tell = tell_nobody) -> SlideRecord:
        """Build one slide, or find it built. A failure is a record, not an exception.

        Args:
            row: the slide.
            fetch: gets its file into a folder; `self.fetch` unless given.
            on_rois: told the number of ROIs of each chunk as it is done.

        Raises:
            OutputError: the output cannot be written any more; no other slide would fare better.
        """
        return self.do_slide(row, fetch=fetch, tell=on_rois)

    def finish(self, manifest: Manifest, records: Iterable[SlideRecord]) -> BuildSummary:
        """Write the slides table over every slide this folder holds, and sum this run up.

        Args:
            manifest: what was asked for; its refused rows stand in the table as failed.
            records: what `build` returned.

        Raises:
            OutputError: the table cannot be written.
        """
        mine, earlier = self.records_of(manifest, records)
        with whole_file(self.paths.settings) as path:
            path.write_text(self.settings.model_dump_json(indent=2), encoding="utf-8")
        summary = summarise(mine, BuildSummary())
        summary.slides_earlier = earlier
        summary.seconds = time.monotonic() - self.started
        built_mm2 = sum(record.row.get("tissue_mm2") or 0.0 for record in mine if not record.reused)
        summary.seconds_per_mm2 = summary.seconds / built_mm2 if built_mm2 else None
        summary.peak_rss_bytes = self.workers.peak_rss_bytes()
        return summary

    def _work(self, row: ManifestRow, acquired: Acquired, inputs_hash: str, tell: Tell) -> dict[str, Any]:
        executor, job = self.workers.executor, self._job(row, acquired, inputs_hash)
        plan: SlidePlan = value_of(executor.submit(tried, plan_slide, job))
        results = _build_chunks(executor, job, plan, tell)
        failed = sorted(pair for result in results for pair in result.failed)
        if len(failed) == len(plan.boxes):
            raise SlideReadError(f"{job.path}: none of its {len(failed)} ROIs could be read: {failed[0][1]}")
        parts = self._commit(row, job, results)
        if self.settings.contact_sheets:
            self._draw(job, plan, parts)
        return {
            **plan.facts,
            "parts": tuple(str(part.relative_to(self.paths.out.absolute())) for part in parts),
            "tissue_mm2": plan.tissue_mm2,
            "n_rois": sum(result.n_rois for result in results),
            "n_nuclei": sum(result.n_nuclei for result in results),
            "n_failed_rois": len(failed),
            "reason": "bad_tiles" if failed else None,
            "message": f"{len(failed)} of {len(plan.boxes)} ROIs could not be read: {failed[0][1]}" if failed else None,
        }

    def _commit(self, row: ManifestRow, job: SlideJob, results: list[ChunkResult]) -> list[Path]:
        drop_other_attempts(job.staging, job.inputs_hash)
        self._begin_commit(row)
        replaced = self._parts.get(safe_name(row.slide_id), [])
        return commit_parts(job, results, replaced, self.paths.out.absolute())

    def _draw(self, job: SlideJob, plan: SlidePlan, parts: list[Path]) -> None:
        sheet_file = self.paths.contact_sheet(job.slide_id).absolute()
        try:
            value_of(self.workers.executor.submit(tried, draw_contact_sheet, job, plan, parts, sheet_file))
        except (SlideReadError, DatasetError, WorkerError) as error:
            logger.warning("%s: no contact sheet: %s", job.slide_id, error)  # the dataset is whole without it

    def _clear(self, slide_id: str) -> None:
        remove_files(self._parts.get(safe_name(slide_id), []))
        self.paths.contact_sheet(slide_id).unlink(missing_ok=True)
        self.paths.tissue(slide_id).unlink(missing_ok=True)

    def _held(self, known: SlideRecord) -> str:
        return f"{known.row['n_rois']} ROIs"

    def _job(self, row: ManifestRow, acquired: Acquired, inputs_hash: str) -> SlideJob:
        # Absolute paths: a worker's current folder is not this process's.
        return SlideJob(
            slide_id=row.slide_id,
            case_id=row.case_id,
            project=row.project,
            path=acquired.path.absolute(),
            md5=acquired.md5,
            mpp_override=row.mpp,
            inputs_hash=inputs_hash,
            staging=self.paths.staging(row.slide_id).absolute(),
            tissue_file=self.paths.tissue(row.slide_id).absolute(),
            tissue_edited=edited_polygons(self.options.tissue_folder, row.slide_id),
            settings=self.settings,
            device=self.options.device,
        )

    def _inputs_hash(self, row: ManifestRow) -> str:
        depends_on = [
            self.settings.tables_hash(),
            *([self.options.device] if self.options.device != "cpu" else []),
        ]
        edited = edited_polygons(self.options.tissue_folder, row.slide_id)
        return hash_of_inputs(row, depends_on=depends_on, edited=edited)


@contextmanager
def open_build(options: BuildOptions, settings: BuildSettings) -> Iterator[BuildRun]:
    """Lock the output folder, start the workers, and clean up at the end.

    Raises:
        OutputError: the folder is locked, read-only or full.
        ConfigError: the detector, the tissue folder, the worker count or the scheduler is of no use.
    """
    if settings.detector not in SHIPPED_DETECTORS:
        load_detector(settings.detector)  # a name that cannot be loaded should not fail slide after slide
    if options.tissue_folder is not None and not options.tissue_folder.is_dir():
        raise ConfigError(f"--tissue {options.tissue_folder}: no such folder; give one with <slide_id>.geojson files")
    paths = RunPaths(options.out)
    with ExitStack() as stack:
        stack.enter_context(locked(paths.out))
        refuse_patches(paths)
        for folder in paths.own_folders:
            sweep_temporaries(folder)
        workers = stack.enter_context(open_workers(options.workers, options.dask_scheduler))
        store = SlideStore(
            paths.downloads, settings.acquire, keep=options.keep_slides, max_slides_on_disk=options.max_slides_on_disk
        )
        stack.enter_context(store)
        logger.info("building into %s with %s", options.out, workers.description)
        run = BuildRun(options, settings, workers, store)
        # Before the workers are closed: a slide that loses them then is not a slide that failed.
        stack.callback(run.stopping.set)
        yield run


def _build_chunks(executor: Executor, job: SlideJob, plan: SlidePlan, on_rois: Tell) -> list[ChunkResult]:
    pieces = enumerate(plan.chunked(job.settings.chunk_rois))
    futures = [executor.submit(tried, build_chunk, job, plan.facts, chunk, boxes) for chunk, boxes in pieces]
    for future in as_completed(futures):
        on_rois(value_of(future).n_rois)
    return [value_of(future) for future in futures]
