"""muse infer: a manifest of slides to the nuclei dataset, slide by slide, each isolated from the others.

    manifest row ─ acquire ─▶ file ─ plan ─▶ tissue ─ tiles ─▶ staged groups ─ commit ─▶ part, record, slides.parquet

What is common to all runs over a cohort is `muse_core.cohort.run`'s.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muse_core.cohort.acquire import Acquired, SlideStore, local_path
from muse_core.cohort.inputs import edited_polygons, hash_of_inputs, hash_of_polygons
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun, Tell
from muse_core.cohort.staging import commit_files, drop_other_attempts, remove_files
from muse_core.cohort.summary import summarise
from muse_core.errors import ConfigError, MuseError, OutputError, TissueError
from muse_core.infer.checksums import Checksums
from muse_core.infer.job import InferJob, InferResult
from muse_core.infer.model import shipped_weights
from muse_core.infer.plan import plan_slide
from muse_core.infer.settings import InferSettings
from muse_core.infer.slide import check_model, infer_slide
from muse_core.infer.summary import InferSummary, shares_of, summary_text
from muse_core.machine.files import safe_name, sweep_temporaries, whole_file
from muse_core.machine.heap import share_one_heap
from muse_core.machine.limits import cpu_count
from muse_core.machine.lock import locked
from muse_core.machine.workers import Workers, open_workers, tried, value_of
from muse_core.models.tensor_file import hash_of
from muse_core.nuclei_dataset import NucleiHeader, part_path
from muse_core.report import drop_pictures, keep_pictures
from muse_core.schemas import INFERRED_SLIDES
from muse_core.slide import open_slide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferOptions:
    """How a run is carried out.

    Attributes:
        out: the output folder.
        checkpoint: weights; None for those that ship.
        device: `cpu` or `cuda`.
        workers: worker processes, among which slides are shared out; 0 for this process alone.
        regions: GeoJSON that limits the work on the one slide there is, or a folder of `<slide_id>.geojson`.
        tissue_folder: edited tissue polygons `<slide_id>.geojson`, which replace those that would be found.
        keep_slides: keep fetched slides; otherwise each is deleted after use.
    """

    out: Path
    checkpoint: Path | None = None
    device: str = "cpu"
    workers: int = 0
    regions: Path | None = None
    tissue_folder: Path | None = None
    keep_slides: bool = True


class InferRun(CohortRun):
    """One run over one output folder. `open_infer` makes it and holds the lock."""

    def __init__(self, options: InferOptions, settings: InferSettings, workers: Workers, store: SlideStore) -> None:
        super().__init__(RunPaths(options.out), workers, store, acquire=settings.acquire, schema=INFERRED_SLIDES)
        self.options = options
        self.settings = settings
        self._checksums = Checksums(self.paths.out / "checksums")
        self._model_hash = hash_of(options.checkpoint or shipped_weights())
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")  # the next slide, while tiles of one are done
        self._done_mm2 = 0.0  # by this run; of a slide taken up again its share
        self._seconds: dict[str, float] = {}
        self._gpu_use: list[tuple[float, float]] = []  # share, and seconds it was over

    def close(self) -> None:
        """Begin nothing further."""
        self.stopping.set()
        self._planner.shutdown(wait=False, cancel_futures=True)

    def finish(self, manifest: Manifest, records: Iterable[SlideRecord]) -> InferSummary:
        """Write the slides table over every slide this folder holds, and sum this run up.

        Args:
            manifest: what was asked for; its refused rows stand in the table as failed.
            records: what `do_slide` returned.

        Raises:
            OutputError: the table cannot be written.
        """
        mine, earlier = self.records_of(manifest, records)
        with whole_file(self.paths.settings) as path:
            path.write_text(self.settings.model_dump_json(indent=2), encoding="utf-8")
        summary = summarise(mine, InferSummary())
        summary.slides_earlier = earlier
        summary.seconds = time.monotonic() - self.started
        if self._done_mm2:
            summary.seconds_per_mm2 = summary.seconds / self._done_mm2
            summary.mm2_per_hour = 3600 * self._done_mm2 / summary.seconds
        for name, share in shares_of(self._seconds).items():
            setattr(summary, name, share)
        if self._gpu_use:
            spans = [seconds for _, seconds in self._gpu_use]
            summary.gpu_use = sum(share * seconds for share, seconds in self._gpu_use) / sum(spans)
        summary.device = self.options.device
        summary.peak_rss_bytes = self.workers.peak_rss_bytes()
        with whole_file(self.paths.summary) as path:
            path.write_text(summary_text(summary, self.paths.out), encoding="utf-8")
        with whole_file(self.paths.summary.with_suffix(".json")) as path:
            path.write_text(json.dumps(summary.as_json(), indent=2), encoding="utf-8")
        return summary

    def _check_wanted(self, row: ManifestRow) -> None:
        if self.options.regions is not None and self._regions(row) is None:
            name = f"{safe_name(row.slide_id)}.geojson"
            raise TissueError(f"{self.options.regions}: no {name}, so nothing is looked at", reason="no_regions")

    def _work(self, row: ManifestRow, acquired: Acquired, inputs_hash: str, tell: Tell) -> dict[str, Any]:
        job = self._job(row, acquired, inputs_hash)
        plan = value_of(self._planner.submit(tried, plan_slide, job))
        begun = time.monotonic()
        # Another process cannot tell how far it is; its slides count when they are done.
        watch = (tell,) if self.options.workers == 0 else ()
        result: InferResult = value_of(self.workers.executor.submit(tried, infer_slide, job, plan, *watch))
        part = self._commit(row, job)
        self._keep_pictures(row, acquired)
        now_seconds = time.monotonic() - begun
        seconds = now_seconds + result.earlier_seconds
        if result.n_tiles:
            self._done_mm2 += plan.tissue_mm2 * (1 - result.n_earlier_tiles / result.n_tiles)
        for name, spent in result.seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        if result.gpu_use is not None:
            self._gpu_use.append((result.gpu_use, now_seconds))
        failed = result.failed
        return {
            **result.facts,
            **shares_of(result.seconds),
            "gpu_use": result.gpu_use,
            "checkpoint": job.checkpoint.name if job.checkpoint else shipped_weights().name,
            "parts": (str(part.relative_to(self.paths.out.absolute())),),
            "tissue_mm2": plan.tissue_mm2,
            "n_nuclei": result.n_nuclei,
            "n_tiles": result.n_tiles,
            "n_failed_tiles": len(failed),
            "seconds": seconds,
            "seconds_per_mm2": seconds / plan.tissue_mm2 if plan.tissue_mm2 else None,
            "reason": "bad_tiles" if failed else None,
            "message": f"{len(failed)} of {result.n_tiles} tiles could not be read: {failed[0]}" if failed else None,
        }

    def _commit(self, row: ManifestRow, job: InferJob) -> Path:
        drop_other_attempts(job.staging, job.inputs_hash)
        self._begin_commit(row)
        drop_pictures(self.paths.out, row.slide_id)
        part = part_path(self.paths.out.absolute(), NucleiHeader(job.slide_id, job.project, (1.0, 1.0), ("any",)))
        moves = [(job.staged_part, part)]
        if job.tissue_edited != job.tissue_file:  # a person's edit is not written over
            moves.append((job.staged_tissue, job.tissue_file))
        commit_files(job.folder, moves, self._parts_of(row.slide_id))
        return part

    def _keep_pictures(self, row: ManifestRow, acquired: Acquired) -> None:
        """Of a slide whose file is about to go: a report could not read them any more."""
        if self.options.keep_slides or local_path(row) is not None:
            return
        try:
            with open_slide(acquired.path, mpp_override=row.mpp) as slide:
                keep_pictures(self.paths.out, row.slide_id, slide)
        except OutputError:
            raise
        except MuseError as error:
            logger.warning("%s: no pictures are kept for reports: %s", row.slide_id, error)

    def _clear(self, slide_id: str) -> None:
        remove_files(self._parts_of(slide_id))
        self.paths.tissue(slide_id).unlink(missing_ok=True)
        drop_pictures(self.paths.out, slide_id)

    def _held(self, known: SlideRecord) -> str:
        return f"{known.row['n_nuclei']} nuclei"

    def _parts_of(self, slide_id: str) -> list[Path]:
        """The dataset's parts of a slide, whichever project they are filed under."""
        return list((self.paths.out / "nuclei").glob(f"project=*/slide_id={_literal(safe_name(slide_id))}/*.parquet"))

    def _job(self, row: ManifestRow, acquired: Acquired, inputs_hash: str) -> InferJob:
        # Absolute paths: a worker's current folder is not this process's.
        return InferJob(
            slide_id=row.slide_id,
            project=row.project,
            path=acquired.path.absolute(),
            md5=acquired.md5 or self._with_checksum(row).md5,
            mpp_override=row.mpp,
            inputs_hash=inputs_hash,
            staging=self.paths.staging(row.slide_id).absolute(),
            tissue_file=self.paths.tissue(row.slide_id).absolute(),
            tissue_edited=edited_polygons(self.options.tissue_folder, row.slide_id),
            regions=self._regions(row),
            checkpoint=self.options.checkpoint and self.options.checkpoint.absolute(),
            device=self.options.device,
            threads=max(1, cpu_count() // max(1, self.options.workers)),
            settings=self.settings,
        )

    def _regions(self, row: ManifestRow) -> Path | None:
        regions = self.options.regions
        if regions is None or regions.is_file():
            return regions and regions.absolute()
        return edited_polygons(regions, row.slide_id)

    def _inputs_hash(self, row: ManifestRow) -> str:
        depends_on: list[Any] = [self.settings.tables_hash(), self._model_hash, self.options.device]
        if (regions := self._regions(row)) is not None:
            depends_on.append(hash_of_polygons(regions))
        elif self.options.regions is not None:
            depends_on.append("no regions")
        edited = edited_polygons(self.options.tissue_folder, row.slide_id)
        return hash_of_inputs(self._with_checksum(row), depends_on=depends_on, edited=edited)

    def _with_checksum(self, row: ManifestRow) -> ManifestRow:
        """A row with its file's checksum, where that is on this machine: it decides whether a slide has changed."""
        path = local_path(row)
        if row.md5 is not None or path is None or not os.path.isfile(path):  # False for impossible names
            return row
        return replace(row, md5=self._checksums.md5(row.slide_id, path))


@contextmanager
def open_infer(options: InferOptions, settings: InferSettings) -> Iterator[InferRun]:
    """Lock the output folder, start the workers, and clean up at the end.

    Raises:
        OutputError: the folder is locked, read-only or full.
        ConfigError: the checkpoint, the regions or the tissue folder is of no use, or no model for these settings.
    """
    _check(options)
    share_one_heap()  # before any thread has a heap of its own
    check_model(options.checkpoint, settings)
    paths = RunPaths(options.out)
    with ExitStack() as stack:
        stack.enter_context(locked(paths.out))
        for folder in (
            paths.records,
            paths.out / "tissue",
            paths.out / "nuclei",
            paths.out / "checksums",
            paths.out / ".staging",
        ):
            sweep_temporaries(folder)
        workers = stack.enter_context(open_workers(options.workers))
        store = stack.enter_context(SlideStore(paths.downloads, settings.acquire, keep=options.keep_slides))
        logger.info("inferring into %s with %s", options.out, workers.description)
        run = InferRun(options, settings, workers, store)
        # Before the workers are closed: a slide that loses them then is not a slide that failed.
        stack.callback(run.close)
        yield run


def _check(options: InferOptions) -> None:
    if options.tissue_folder is not None and not options.tissue_folder.is_dir():
        raise ConfigError(f"--tissue {options.tissue_folder}: no such folder; give one with <slide_id>.geojson files")
    if options.regions is not None and not options.regions.exists():
        raise ConfigError(f"--regions {options.regions}: no such file; give GeoJSON, or a folder of <slide_id>.geojson")


def _literal(name: str) -> str:
    """A name as a glob pattern that matches it alone; `safe_name` leaves no other character that globs know."""
    return name.replace("[", "[[]")
