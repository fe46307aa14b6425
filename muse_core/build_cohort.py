"""build-tcga-nu: a manifest of slides to the ROI dataset, slide by slide, each isolated from the others.

    manifest row ─ acquire ─▶ file ─ plan, then chunks, on workers ─▶ parts ─ commit ─▶ record ─▶ slides.parquet

A slide is finished when its record stands; whatever a killed run left before that is taken up again by the next.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

from distributed import KilledWorker

from muse_core.acquire import Acquired, SlideStore, acquire, local_path
from muse_core.build_settings import BuildSettings
from muse_core.build_slide import (
    ChunkResult,
    SlideJob,
    SlidePlan,
    build_chunk,
    commit_parts,
    drop_other_attempts,
    plan_slide,
    remove_parts,
    remove_staging,
)
from muse_core.cluster import WorkerError, Workers, open_workers, tried, value_of
from muse_core.contact_sheet import draw_contact_sheet
from muse_core.errors import (
    AcquireError,
    ConfigError,
    DatasetError,
    MuseError,
    OutputError,
    SlideReadError,
    TissueError,
    WorkersLostError,
)
from muse_core.files import safe_name, sweep_temporaries, whole_file
from muse_core.manifest import Manifest, ManifestRow
from muse_core.nuclei import SHIPPED_DETECTORS, load_detector
from muse_core.roi_dataset import parts_by_slide
from muse_core.run_paths import RunPaths, locked, refuse_patches
from muse_core.slide_records import (
    BuildSummary,
    SlideRecord,
    keep_record,
    package_versions,
    read_record,
    read_records,
    summarise,
    write_slides_table,
)
from muse_core.uris import public_uri

logger = logging.getLogger(__name__)

MOST_SLIDES_IN_FLIGHT = 256  # threads that wait, mostly; they are made as they are needed

Fetch = Callable[[ManifestRow, Path], Acquired]
OnRois = Callable[[int], None]
Build = Callable[[ManifestRow], SlideRecord]


def _ignore(_: int) -> None:
    pass


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


class BuildRun:
    """One run over one output folder: its workers, its slide store. `open_build` makes it and holds the lock."""

    def __init__(self, options: BuildOptions, settings: BuildSettings, workers: Workers, store: SlideStore) -> None:
        self.options = options
        self.settings = settings
        self.paths = RunPaths(options.out)
        self.workers = workers
        self.store = store
        self.started = time.monotonic()
        self.stopping = Event()
        self._parts = parts_by_slide(options.out)  # nobody else writes while the folder is locked

    @property
    def slides_in_flight(self) -> int:
        """Slides begun at once: as many as the workers can build, and as many again as may be fetched meanwhile."""
        return min(MOST_SLIDES_IN_FLIGHT, self.workers.count() + self.settings.acquire.max_downloads)

    def fetch(self, row: ManifestRow, folder: Path) -> Acquired:
        """The slide's file on this machine, whole and checked, fetched into `folder`; raises what `acquire` does."""
        return acquire(row, folder, self.settings.acquire)

    def build(self, row: ManifestRow, *, fetch: Fetch | None = None, on_rois: OnRois = _ignore) -> SlideRecord:
        """Build one slide, or find it built. A failure is a record, not an exception.

        Args:
            row: the slide.
            fetch: gets its file into a folder; `self.fetch` unless given.
            on_rois: told the number of ROIs of each chunk as it is done.

        Raises:
            OutputError: the output cannot be written any more; no other slide would fare better.
        """
        begun = time.monotonic()
        known = read_record(self.paths.record(row.slide_id))
        try:
            inputs_hash = self._inputs_hash(row)
        except OSError as error:
            values = self._failure(row.slide_id, AcquireError(f"{public_uri(row.uri)}: {error.strerror or error}"), {})
            return self._settle(row, known, "", values)
        if known is not None and self._is_finished(known, inputs_hash):
            return replace(known, reused=True)
        values = self._attempt(row, inputs_hash, fetch or self.fetch, on_rois)
        values["seconds"] = time.monotonic() - begun
        return self._settle(row, known, inputs_hash, values)

    def finish(self, manifest: Manifest, records: Iterable[SlideRecord]) -> BuildSummary:
        """Write the slides table over every slide this folder holds, and sum this run up.

        Args:
            manifest: what was asked for; its refused rows stand in the table as failed.
            records: what `build` returned.

        Raises:
            OutputError: the table cannot be written.
        """
        mine = [*records, *self._refused(manifest)]
        ids = {record.slide_id for record in mine}
        older = [record for record in read_records(self.paths.records) if record.slide_id not in ids]
        write_slides_table(self.paths.slides_table, [*older, *mine])
        with whole_file(self.paths.settings) as path:
            path.write_text(self.settings.model_dump_json(indent=2), encoding="utf-8")
        summary = summarise(mine)
        summary.slides_earlier = len(older)
        summary.seconds = time.monotonic() - self.started
        built_mm2 = sum(record.row.get("tissue_mm2") or 0.0 for record in mine if not record.reused)
        summary.seconds_per_mm2 = summary.seconds / built_mm2 if built_mm2 else None
        summary.peak_rss_bytes = self.workers.peak_rss_bytes()
        return summary

    def _is_finished(self, known: SlideRecord, inputs_hash: str) -> bool:
        if known.inputs_hash != inputs_hash or known.status == "failed":
            return False
        return all((self.paths.out / part).exists() for part in known.parts)

    def _refused(self, manifest: Manifest) -> list[SlideRecord]:
        """A record for each slide that only refused rows name; what an earlier run built of it stays in the table."""
        messages: dict[str, list[str]] = {}
        for problem in manifest.errors:
            messages.setdefault(problem.slide_id or f"(row {problem.row})", []).append(problem.message)
        refused = []
        for slide_id, texts in messages.items():
            values = {"status": "failed", "reason": "manifest_invalid", "message": "; ".join(texts)}
            known = read_record(self.paths.record(slide_id))
            built = known is not None and known.status == "done"
            refused.append(
                _still_there(known, values) if known and built else SlideRecord({"slide_id": slide_id, **values})
            )
        return refused

    def _attempt(self, row: ManifestRow, inputs_hash: str, fetch: Fetch, on_rois: OnRois) -> dict[str, Any]:
        """The values of the slide's row, whatever happens to it."""
        facts: dict[str, Any] = {"n_rois": 0, "n_nuclei": 0}
        try:
            with self.store.slide(row, fetch) as acquired:
                facts |= {"size": acquired.size} | ({"md5": acquired.md5} if acquired.md5 else {})
                return {"status": "done", **facts, **self._build(row, acquired, inputs_hash, on_rois)}
        except (OutputError, WorkersLostError):
            raise
        except Exception as error:
            # The one broad except: no fault of a slide, of ours or of a third party's detector may end the cohort.
            if self.stopping.is_set():
                raise  # the workers were taken away; the slide is none the worse
            return self._failure(row.slide_id, error, facts)

    def _failure(self, slide_id: str, error: Exception, facts: dict[str, Any]) -> dict[str, Any]:
        status, reason, message = _verdict(slide_id, error)
        logger.warning("%s: %s, %s: %s", slide_id, status, reason, message)
        learnt = error.facts if isinstance(error, MuseError) else {}
        return {**facts, **learnt, "status": status, "reason": reason, "message": message}

    def _settle(
        self, row: ManifestRow, known: SlideRecord | None, inputs_hash: str, values: dict[str, Any]
    ) -> SlideRecord:
        """Put on record what became of a slide; where it failed, what an earlier run built of it stays."""
        if values["status"] == "failed" and known is not None and known.status == "done":
            return _still_there(known, values)
        parts = values.pop("parts", ())
        if values["status"] != "done":
            self._clear(row.slide_id)
        record = SlideRecord({**_identity(row), **values}, inputs_hash, parts)
        keep_record(record, self.paths.record(row.slide_id))
        remove_staging(self.paths.staging(row.slide_id))
        return record

    def _build(self, row: ManifestRow, acquired: Acquired, inputs_hash: str, on_rois: OnRois) -> dict[str, Any]:
        executor, job = self.workers.executor, self._job(row, acquired, inputs_hash)
        plan: SlidePlan = value_of(executor.submit(tried, plan_slide, job))
        results = _build_chunks(executor, job, plan, on_rois)
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
        """Change the dataset. From the first step on, what an earlier record says is no longer so."""
        drop_other_attempts(job)
        interrupted = {"status": "failed", "reason": "interrupted", "message": f"{row.slide_id}: run the command again"}
        keep_record(SlideRecord({**_identity(row), **interrupted}), self.paths.record(row.slide_id))
        replaced = self._parts.get(safe_name(row.slide_id), [])
        return commit_parts(job, results, replaced, self.paths.out.absolute())

    def _draw(self, job: SlideJob, plan: SlidePlan, parts: list[Path]) -> None:
        sheet_file = self.paths.contact_sheet(job.slide_id).absolute()
        try:
            value_of(self.workers.executor.submit(tried, draw_contact_sheet, job, plan, parts, sheet_file))
        except (SlideReadError, DatasetError, WorkerError) as error:
            logger.warning("%s: no contact sheet: %s", job.slide_id, error)  # the dataset is whole without it

    def _clear(self, slide_id: str) -> None:
        """Take what the folder holds of a slide that is not built."""
        remove_parts(self._parts.get(safe_name(slide_id), []))
        self.paths.contact_sheet(slide_id).unlink(missing_ok=True)
        self.paths.tissue(slide_id).unlink(missing_ok=True)

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
            tissue_edited=self._edited_tissue(row.slide_id),
            settings=self.settings,
            device=self.options.device,
        )

    def _edited_tissue(self, slide_id: str) -> Path | None:
        if self.options.tissue_folder is None:
            return None
        path = self.options.tissue_folder / f"{safe_name(slide_id)}.geojson"
        return path.absolute() if path.is_file() else None

    def _inputs_hash(self, row: ManifestRow) -> str:
        """What a slide's rows depend on: its file, its manifest row, edited tissue, and the settings that matter."""
        path, edited = local_path(row), self._edited_tissue(row.slide_id)
        # With a checksum it plays no part where the slide lies, nor how its URL is signed today.
        parts: list[Any] = [row.slide_id, row.case_id, row.project, row.md5 or public_uri(row.uri), row.size, row.mpp]
        parts += [self.settings.tables_hash(), *([self.options.device] if self.options.device != "cpu" else [])]
        if path is not None and row.md5 is None and os.path.exists(path):  # False for impossible names
            parts += [path.stat().st_size, path.stat().st_mtime_ns]
        if edited is not None:
            parts.append(sha256(edited.read_bytes()).hexdigest())
        return sha256(json.dumps(parts).encode()).hexdigest()[:16]


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
        stack.enter_context(locked(paths))
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


def build_all(run: BuildRun, rows: Iterable[ManifestRow], build: Build | None = None) -> Iterator[SlideRecord]:
    """Build slides, `run.slides_in_flight` at once, and yield each record as it is done (not in manifest order).

    Args:
        run: the run they belong to.
        rows: the slides.
        build: what builds one; `run.build` unless given. It runs in threads that see the caller's context variables.

    Raises:
        OutputError: the output cannot be written any more; nothing further is begun.
    """
    build = build or run.build
    threads = ThreadPoolExecutor(MOST_SLIDES_IN_FLIGHT, thread_name_prefix="slide")
    pending: set[Future[SlideRecord]] = set()
    try:
        for row in rows:
            pending.add(threads.submit(copy_context().run, build, row))
            if len(pending) >= run.slides_in_flight:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(pending))
    finally:
        # After an error or Ctrl-C nobody waits for slides that are half done: the next run takes them up.
        run.stopping.set()
        threads.shutdown(wait=False, cancel_futures=True)


def _build_chunks(executor: Executor, job: SlideJob, plan: SlidePlan, on_rois: OnRois) -> list[ChunkResult]:
    pieces = enumerate(plan.chunked(job.settings.chunk_rois))
    futures = [executor.submit(tried, build_chunk, job, plan.facts, chunk, boxes) for chunk, boxes in pieces]
    for future in as_completed(futures):
        on_rois(value_of(future).n_rois)
    return [value_of(future) for future in futures]


def _verdict(slide_id: str, error: Exception) -> tuple[str, str, str]:
    """Status, reason and message of a slide that was not built."""
    if isinstance(error, MuseError):
        return ("skipped" if isinstance(error, TissueError) else "failed"), error.reason, str(error)
    if isinstance(error, KilledWorker):
        message = f"{slide_id}: worker after worker died over it ({error}); give the workers more memory"
        return "failed", "worker_killed", message
    if isinstance(error, WorkerError):
        logger.error("%s: crashed on a worker:\n%s", slide_id, error.traceback_text)
        return "failed", "crashed", f"{slide_id}: {error}"
    logger.error("%s: crashed", slide_id, exc_info=error)
    return "failed", "crashed", f"{slide_id}: {type(error).__name__}: {error}"


def _still_there(known: SlideRecord, values: dict[str, Any]) -> SlideRecord:
    """The record of a slide that was built once and now failed: its ROIs stay, and so does its record on the disk."""
    kept = f"{values['message']}; the {known.row['n_rois']} ROIs of an earlier run are kept"
    return SlideRecord(
        {**known.row, "status": "failed", "reason": values["reason"], "message": kept}, known.inputs_hash
    )


def _identity(row: ManifestRow) -> dict[str, Any]:
    return {
        "slide_id": row.slide_id,
        "case_id": row.case_id,
        "project": row.project,
        "uri": public_uri(row.uri),
        "md5": row.md5,
        "size": row.size,
        "versions": json.dumps(package_versions()),
    }
