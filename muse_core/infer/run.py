"""muse infer: a manifest of slides to the nuclei dataset.

    file ─ plan ─▶ tissue ─ tiles ─▶ staged groups ─ merge ─▶ staged part ─ commit ─▶ part

What is common to all runs over a cohort is `muse_core.cohort.run`'s.
"""

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from muse_core.cohort.acquire import local_path
from muse_core.cohort.inputs import hash_of_inputs, hash_of_polygons
from muse_core.cohort.job import SlideJob
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.options import CohortOptions
from muse_core.cohort.polygon_files import PolygonFiles
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun, open_cohort
from muse_core.cohort.staging import remove_files
from muse_core.cohort.summary import summarise
from muse_core.cohort.work import Commit, Tell
from muse_core.errors import ConfigError, MuseError, OutputError, TissueError
from muse_core.infer.checksums import Checksums
from muse_core.infer.job import InferJob, InferPlan, InferResult
from muse_core.infer.model import Engine, resolve_engine, shipped_weights
from muse_core.infer.plan import plan_slide
from muse_core.infer.settings import InferSettings
from muse_core.infer.slide import check_model, infer_slide
from muse_core.infer.summary import InferSummary, shares_of
from muse_core.machine.files import safe_name
from muse_core.machine.limits import cpu_count
from muse_core.machine.workers import Workers, tried, value_of
from muse_core.models.quantised import quantised_path
from muse_core.models.tensor_file import hash_of
from muse_core.nuclei_dataset import NucleiHeader, part_path, parts_of_slide
from muse_core.report import drop_pictures, keep_pictures
from muse_core.schemas import INFERRED_SLIDES
from muse_core.slide import open_slide
from muse_core.slide.file_set import files_of_slide

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InferOptions(CohortOptions):
    """How a run of inference is carried out.

    Attributes:
        workers: worker processes, among which slides are shared out; 0 for this process alone.
        checkpoint: weights; None for those that ship.
        regions: GeoJSON that limits the work on the one slide there is, or a folder of `<slide_id>.geojson`.
    """

    command: ClassVar[str] = "infer"
    workers: int = 0
    checkpoint: Path | None = None
    regions: Path | None = None

    @cached_property
    def region_files(self) -> PolygonFiles:
        """Of a folder of regions its files, by the slide that they are of."""
        folder = self.regions if self.regions is not None and self.regions.is_dir() else None
        return PolygonFiles(folder, "--regions")

    def check(self) -> None:
        """Before anything is begun.

        Raises:
            ConfigError: the tissue folder is none, or there are no such regions.
        """
        super().check()
        if self.regions is not None and not self.regions.exists():
            raise ConfigError(
                f"--regions {self.regions}: no such file; give GeoJSON, or a folder of <slide_id>.geojson"
            )


class InferWork:
    """What inference does to a slide.

    Args:
        options: how the run is carried out.
        settings: of inference.
        planner: plans the next slide while tiles of one are done.
        workers: who infer slides.
    """

    schema = INFERRED_SLIDES
    counted = ("n_nuclei",)

    def __init__(
        self, options: InferOptions, settings: InferSettings, planner: ThreadPoolExecutor, workers: Workers
    ) -> None:
        self.settings = settings
        self._options = options
        self._paths = options.output.paths
        self._planner = planner
        self._executor = workers.executor
        self._checksums = Checksums(self._paths.out / "checksums")
        self._engine = _engine_of(options, settings)
        self._model_hashes = _model_hashes(options, self._engine)
        self._seen_mm2 = self._worked_mm2 = 0.0
        self._done_mm2 = 0.0  # by this run; of a slide taken up again its share
        self._seconds: dict[str, float] = {}
        self._gpu_use: list[tuple[float, float]] = []  # share, and seconds it was over

    def check_together(self, manifest: Manifest, earlier: list[SlideRecord]) -> None:
        """Refuse a second model beside the one whose slides the folder holds, unless this run redoes all of them.

        Files of regions that are of no slide are named.

        Raises:
            OutputError: slides of another model would stay (reason output_mixed).
        """
        self._options.region_files.check(manifest.rows)
        for record in earlier:
            model = record.row.get("model_id")
            if record.status == "done" and model not in (None, self._model_hashes[0]):
                raise OutputError(
                    f"{self._options.url or self._paths.out}: holds slide {record.slide_id} of another model, "
                    f"{record.row.get('checkpoint')} ({model}), which this run does not redo; classes of two models "
                    "don't compare: give another --out, or name that slide too",
                    reason="output_mixed",
                )

    def inputs_hash(self, row: ManifestRow) -> str:
        """Settings, weights, regions, tissue polygons and the file."""
        depends_on: list[Any] = [self.settings.tables_hash(), *self._model_hashes]
        if (regions := self._regions(row)) is not None:
            depends_on.append(hash_of_polygons(regions))
        elif self._options.regions is not None:
            depends_on.append("no regions")
        edited = self._options.tissue_files.of(row)
        return hash_of_inputs(self._with_checksum(row), depends_on=depends_on, edited=edited, by_content=True)

    def rules(self) -> str:
        """Settings, weights, and whether regions limit the work."""
        return " ".join([self.settings.tables_hash(), *self._model_hashes, str(self._options.regions is not None)])

    def pieces(self) -> str:
        """The layout of tiles."""
        return self.settings.pieces_hash()

    def check_wanted(self, row: ManifestRow) -> None:
        """Where there is a folder of regions, slides that have none are not.

        Raises:
            TissueError: no regions for this slide (reason no_regions).
        """
        if self._options.regions is not None and self._regions(row) is None:
            name = f"{safe_name(row.slide_id)}.geojson"
            raise TissueError(f"{self._options.regions}: no {name}, so nothing is looked at", reason="no_regions")

    def do(self, row: ManifestRow, job: SlideJob, commit: Commit, tell: Tell) -> dict[str, Any]:
        """Plan, infer, commit; told of tiles, group by group."""
        asked = self._asked(row, job)
        plan: InferPlan = value_of(self._planner.submit(tried, plan_slide, asked))
        begun = time.monotonic()
        # Another process cannot tell how far it is; its slides count when they are done.
        watch = (tell,) if self._options.workers == 0 else ()
        result: InferResult = value_of(self._executor.submit(tried, infer_slide, asked, plan, *watch))
        part = part_path(self._paths.out.absolute(), NucleiHeader(job.slide_id, job.project, (1.0, 1.0), ("any",)))
        commit([(asked.staged_part, part)], parts_of_slide(self._paths.out, job.slide_id))
        drop_pictures(self._paths.out, job.slide_id)
        self._keep_pictures(row, job)
        seconds = time.monotonic() - begun
        self._count(plan, result, seconds)
        return {
            **_row_values(plan, result, seconds + result.earlier_seconds),
            "checkpoint": (self._options.checkpoint or shipped_weights()).name,
            "parts": (str(part.relative_to(self._paths.out.absolute())),),
        }

    def clear(self, slide_id: str) -> None:
        """Parts, tissue and pictures."""
        remove_files(parts_of_slide(self._paths.out, slide_id))
        self._paths.tissue(slide_id).unlink(missing_ok=True)
        drop_pictures(self._paths.out, slide_id)

    def held(self, known: SlideRecord) -> str:
        """Nuclei."""
        return f"{known.row['n_nuclei']} nuclei"

    def sum_up(self, records: list[SlideRecord], seconds: float) -> InferSummary:
        """Counts, the pace over the tissue that this run did, and what its time went into."""
        summary = summarise(records, InferSummary())
        summary.seconds = seconds
        if self._done_mm2:
            summary.seconds_per_mm2 = seconds / self._done_mm2
            summary.mm2_per_hour = 3600 * self._done_mm2 / seconds
        for name, share in shares_of(self._seconds).items():
            setattr(summary, name, share)
        if self._worked_mm2:
            summary.redundancy = self._seen_mm2 / self._worked_mm2
        if self._gpu_use:
            spans = [span for _, span in self._gpu_use]
            summary.gpu_use = sum(share * span for share, span in self._gpu_use) / sum(spans)
        summary.device, summary.engine = self._options.device, self._engine
        return summary

    def _count(self, plan: InferPlan, result: InferResult, seconds: float) -> None:
        if result.n_tiles:
            self._done_mm2 += plan.tissue_mm2 * (1 - result.n_earlier_tiles / result.n_tiles)
        self._seen_mm2 += result.seen_mm2
        self._worked_mm2 += plan.tissue_mm2
        for name, spent in result.seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        if result.gpu_use is not None:
            self._gpu_use.append((result.gpu_use, seconds))

    def _keep_pictures(self, row: ManifestRow, job: SlideJob) -> None:
        """Of a slide whose file is about to go: a report could not read them any more."""
        stays = self._options.keep_slides and self._options.url is None  # fetched ones stay on this machine alone
        if stays or local_path(row) is not None:
            return
        try:
            with open_slide(job.path, mpp_override=job.mpp_override, scene=job.scene) as slide:
                keep_pictures(self._paths.out, job.slide_id, slide)
        except OutputError:
            raise
        except MuseError as error:
            logger.warning("%s: no pictures are kept for reports: %s", job.slide_id, error)

    def _asked(self, row: ManifestRow, job: SlideJob) -> InferJob:
        return InferJob(
            **vars(job) | {"md5": job.md5 or self._with_checksum(row).md5},
            regions=self._regions(row),
            checkpoint=self._options.checkpoint and self._options.checkpoint.absolute(),
            threads=_threads_of(self._options),
            settings=self.settings,
            engine=self._engine,
        )

    def _regions(self, row: ManifestRow) -> Path | None:
        regions = self._options.regions
        if regions is None or regions.is_file():
            return regions and regions.absolute()
        return self._options.region_files.of(row)

    def _with_checksum(self, row: ManifestRow) -> ManifestRow:
        """A row with its files' checksum, where they are on this machine: it decides whether a slide has changed."""
        path = local_path(row)
        if path is None or not os.path.isfile(path):  # False for impossible names
            return row
        if row.md5 is not None and len(files_of_slide(path)) == 1:
            return row
        return replace(row, md5=self._checksums.md5(row.slide_id, path))


@contextmanager
def open_infer(options: InferOptions, settings: InferSettings) -> Iterator[CohortRun[InferSummary]]:
    """Lock the output folder, start the workers, and clean up at the end.

    Raises:
        OutputError: the folder is locked, read-only or full, or another command's.
        ConfigError: the checkpoint, the regions or the tissue folder is of no use, or no model for these settings.
    """
    options.check()  # before a model is loaded
    engine = _engine_of(options, settings)
    check_model(options.checkpoint, settings, device=options.device, engine=engine, threads=_threads_of(options))
    planner = ThreadPoolExecutor(1, thread_name_prefix="plan")
    work = partial(InferWork, options, settings, planner)
    with open_cohort(options, work, settings.acquire) as run:
        try:
            yield run
        finally:
            run.stopping.set()  # first: a plan that is called off is not a slide that failed
            planner.shutdown(wait=False, cancel_futures=True)


def _engine_of(options: InferOptions, settings: InferSettings) -> Engine:
    return resolve_engine(settings.engine, options.checkpoint, device=options.device, embeddings=settings.embedding)


def settings_and_models(options: InferOptions, settings: InferSettings) -> list[str]:
    """Hashes of the settings and weights that a slide's tables hang on.

    Raises:
        ConfigError: no model for these settings.
    """
    return [settings.tables_hash(), *_model_hashes(options, _engine_of(options, settings))]


def _model_hashes(options: InferOptions, engine: Engine) -> list[str]:
    checkpoint = options.checkpoint or shipped_weights()
    quantised = [quantised_path(checkpoint)] if engine == "openvino" else []
    return [hash_of(path) for path in (checkpoint, *quantised)]


def _threads_of(options: InferOptions) -> int:
    return max(1, cpu_count() // max(1, options.workers))


def _row_values(plan: InferPlan, result: InferResult, seconds: float) -> dict[str, Any]:
    failed = result.failed
    return {
        **result.facts,
        **shares_of(result.seconds),
        "gpu_use": result.gpu_use,
        "tissue_mm2": plan.tissue_mm2,
        "n_nuclei": result.n_nuclei,
        "n_tiles": result.n_tiles,
        "n_failed_tiles": len(failed),
        "redundancy": result.seen_mm2 / plan.tissue_mm2 if plan.tissue_mm2 else None,
        "seconds": seconds,
        "seconds_per_mm2": seconds / plan.tissue_mm2 if plan.tissue_mm2 else None,
        "reason": "bad_tiles" if failed else None,
        "message": f"{len(failed)} of {result.n_tiles} tiles could not be read: {failed[0]}" if failed else None,
    }
