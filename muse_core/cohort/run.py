"""A manifest of slides, one by one, each isolated from the others; what is done to a slide is its `Work`'s.

    manifest row ─ acquire ─▶ file ─ the work ─▶ parts ─ commit ─▶ record ─▶ slides.parquet, summary

A slide is finished when its record stands; whatever a killed run left before that is taken up again by the next.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Generic, TypeVar

from muse_core.cohort.acquire import Acquired, AcquireSettings, SlideStore, acquire
from muse_core.cohort.hold import Hold, hold
from muse_core.cohort.home import Home, interrupted_record
from muse_core.cohort.job import SlideJob
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.options import CohortOptions
from muse_core.cohort.records import (
    SlideRecord,
    read_record,
    read_records,
    write_slides_table,
)
from muse_core.cohort.sharing import LOOK_EVERY_S, Sharing, SlideTakenError
from muse_core.cohort.staging import commit_files, drop_other_attempts, remove_staging
from muse_core.cohort.summary import AnySummary, write_summary
from muse_core.cohort.suspects import Suspects
from muse_core.cohort.uris import public_text, public_uri
from muse_core.cohort.verdict import explained, identity, verdict
from muse_core.cohort.versions import Versions
from muse_core.cohort.watch import NOBODY, Watcher
from muse_core.cohort.work import Tell, Work
from muse_core.errors import AcquireError, MuseError, OutputError, WorkersLostError
from muse_core.machine.files import safe_name, whole_file
from muse_core.machine.workers import Workers, open_workers

logger = logging.getLogger(__name__)

MOST_SLIDES_IN_FLIGHT = 256  # threads that wait, mostly; they are made as they are needed

Fetch = Callable[[ManifestRow, Path], Acquired]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def tell_nobody(_: int) -> None:
    """The `Tell` of callers who do not watch."""


class CohortRun(Generic[AnySummary]):
    """One run over one output folder: its workers, its slide store, its records. `open_cohort` holds the lock.

    Args:
        options: how it is carried out.
        workers: who does what of the work can be done elsewhere.
        store: of fetched slides.
        work: what is done to a slide.
        acquire: how slides are fetched.
        held: its right to write, and its signs of life.
        home: where the results live.
    """

    def __init__(
        self,
        options: CohortOptions,
        workers: Workers,
        store: SlideStore,
        work: Work[AnySummary],
        acquire: AcquireSettings,
        held: Hold,
        home: Home,
    ) -> None:
        self.heartbeat = held.heartbeat
        self._sharing: Sharing | None = held.sharing
        self.options = options
        self.paths = home.paths
        self._home = home
        self._versions = Versions()
        self.workers = workers
        self.store = store
        self.work = work
        self.started = time.monotonic()
        self.stopping = Event()
        # Runs that share a folder have claims for marks.
        self.suspects = Suspects(None if self._sharing else self.paths.in_work, held.suspects)
        self._acquire = acquire

    @property
    def slides_in_flight(self) -> int:
        """Slides begun at once: as many as the workers can take, and as many again as may be fetched meanwhile."""
        return min(MOST_SLIDES_IN_FLIGHT, self.workers.count() + self._acquire.max_downloads)

    def begin(self, manifest: Manifest) -> None:
        """Look at the manifest as a whole, once, before its first slide.

        Args:
            manifest: what will be asked for.

        Raises:
            OutputError: its slides and those that the folder holds don't go together, or a run that shares the folder
                follows other rules.
            ConfigError: a file of polygons fits two slides.
        """
        if self._sharing is not None:
            self.heartbeat.follow(self.work.rules())
            self._sharing.agree(self.work.rules())
        self.options.tissue_files.check(manifest.rows)
        asked = {row.slide_id for row in manifest.rows}
        earlier = [record for record in read_records(self.paths.records) if record.slide_id not in asked]
        self.work.check_together(manifest, earlier)

    def versioned(self, manifest: Manifest) -> Manifest:
        """The manifest with the versions of its slides in stores; without those that cannot be told."""
        return replace(manifest, rows=tuple(map(self._versioned, manifest.rows)))

    def _versioned(self, row: ManifestRow) -> ManifestRow:
        try:
            return self._versions.of(row)
        except AcquireError:
            return row  # doing it will say why

    def fetch(self, row: ManifestRow, folder: Path) -> Acquired:
        """The slide's file on this machine, whole and checked, fetched into `folder`; raises what `acquire` does."""
        return acquire(row, folder, self._acquire)

    def to_do(self, rows: Sequence[ManifestRow]) -> Iterator[ManifestRow | None]:
        """Rows to do, as this run may begin them; None where others have all that is left in work, for `do_all`.

        Args:
            rows: all that are asked for.

        Raises:
            OutputError: the folder was taken over by another run.
        """
        return iter(rows) if self._sharing is None else self._sharing.claimed(rows)

    @property
    def shares(self) -> bool:
        """Whether others work on the same slides at the same time."""
        return self._sharing is not None

    def do_slide(self, row: ManifestRow, *, fetch: Fetch | None = None, tell: Tell = tell_nobody) -> SlideRecord:
        """Do one slide, or find it done. A failure is a record, not an exception.

        Of slides that runs share out `to_do` has given it to this one. Where it was taken over meanwhile, the record is
        none that is kept.

        Args:
            row: the slide.
            fetch: gets its file into a folder; `self.fetch` unless given.
            tell: told of pieces as they are done.

        Raises:
            OutputError: the output cannot be written any more; no other slide would fare better.
        """
        if self._sharing is None:
            return self._do_slide(row, fetch, tell)
        self._home.refresh(row.slide_id)  # another run may have done it since this one began
        if safe_name(row.slide_id) in self._sharing.suspects:
            self.suspects.suspect(row.slide_id)
        try:
            record = self._do_slide(row, fetch, tell)
        except SlideTakenError as taken:
            logger.warning("%s", taken)
            return SlideRecord({**identity(row), "status": "skipped", "reason": taken.reason, "message": str(taken)})
        self._sharing.done(row.slide_id)
        return record

    def _do_slide(self, row: ManifestRow, fetch: Fetch | None, tell: Tell) -> SlideRecord:
        begun = time.monotonic()
        known = read_record(self.paths.record(row.slide_id))
        try:
            row = self._versions.of(row)
            inputs_hash = self.work.inputs_hash(row)
        except MuseError as error:
            return self._settle(row, known, "", self._failure(row.slide_id, error, {}))
        except OSError as error:
            values = self._failure(row.slide_id, AcquireError(f"{public_uri(row.uri)}: {error.strerror or error}"), {})
            return self._settle(row, known, "", values)
        if known is not None and self._is_finished(known, inputs_hash):
            return self._reused(known)
        values = self._attempt(row, inputs_hash, fetch or self.fetch, tell)
        values.setdefault("seconds", time.monotonic() - begun)
        return self._settle(row, known, inputs_hash, values)

    def finished(self, row: ManifestRow) -> SlideRecord | None:
        """The record of a slide that an earlier run finished with the same inputs; None where there is work to do."""
        known = read_record(self.paths.record(row.slide_id))
        if known is None or known.status == "failed":
            return None  # without its hash, for which a file may be read whole
        try:
            done = self._is_finished(known, self.work.inputs_hash(self._versions.of(row)))
        except (OSError, MuseError):
            return None  # who does it will be told why
        return self._reused(known) if done else None

    def finish(self, manifest: Manifest, records: Iterable[SlideRecord]) -> AnySummary:
        """Write the slides table over every slide this folder holds, and sum this run up.

        Args:
            manifest: what was asked for; its refused rows stand in the table as failed.
            records: what `do_slide` returned.

        Raises:
            OutputError: the table cannot be written.
        """
        with self._alone():
            done = self._of_all(manifest, records) if self.shares else records
            return self._finish([*done, *self._refused(manifest)])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only run that writes tables, and know what the others have done."""
        if self._sharing is None:
            yield
            return
        with self._home.alone(self.heartbeat.facts):
            self._home.pull()
            yield

    def _of_all(self, manifest: Manifest, records: Iterable[SlideRecord]) -> list[SlideRecord]:
        """What became of each slide, whichever run has done it."""
        mine = {record.slide_id: record for record in records if record.row.get("reason") != "output_lost"}
        others = (row for row in manifest.rows if row.slide_id not in mine)
        known = (read_record(self.paths.record(row.slide_id)) for row in others)
        return [*mine.values(), *(replace(one, reused=True) for one in known if one is not None)]

    def _finish(self, mine: list[SlideRecord]) -> AnySummary:
        ids = {record.slide_id for record in mine}
        older = [record for record in read_records(self.paths.records) if record.slide_id not in ids]
        write_slides_table(self.paths.slides_table, [*older, *mine], self.work.schema)
        with whole_file(self.paths.settings) as path:
            path.write_text(self.work.settings.model_dump_json(indent=2), encoding="utf-8")
        summary = self.work.sum_up(mine, time.monotonic() - self.started)
        summary.slides_earlier = len(older)
        summary.peak_rss_bytes = self.workers.peak_rss_bytes()
        write_summary(self.paths, summary)
        self.keep_tables()
        return summary

    def keep_tables(self) -> None:
        """Have what was written of the whole run where its results live; nothing to do for a folder.

        Raises:
            OutputError: it cannot be written.
        """
        self._home.keep_tables()

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
            pieces=self.work.pieces(),
            staging=self.paths.staging(row.slide_id).absolute(),
            tissue_file=self.paths.tissue(row.slide_id).absolute(),
            tissue_edited=self.options.tissue_files.of(row),
            device=self.options.device,
            scene=row.scene,
        )

    def _commit(
        self, row: ManifestRow, job: SlideJob, staged: Iterable[tuple[Path, Path]], replaced: Iterable[Path]
    ) -> None:
        """Put staged files in place of those that the dataset holds of a slide, and its tissue with them."""
        drop_other_attempts(job.staging, job.folder.name)
        staged = list(staged)
        self._begin_commit(row, (final.relative_to(self.paths.out.absolute()).as_posix() for _, final in staged))
        # A person's edit is not written over.
        tissue = [(job.staged_tissue, job.tissue_file)] if job.tissue_edited != job.tissue_file else []
        commit_files(job.folder, [*staged, *tissue], replaced)

    def _begin_commit(self, row: ManifestRow, parts: Iterable[str]) -> None:
        """From here on the dataset changes, and what an earlier record says is no longer so."""
        self._check_mine(row.slide_id)
        known = read_record(self.paths.record(row.slide_id))
        self._home.keep(interrupted_record(identity(row), [*parts, *(() if known is None else known.parts)]))

    def _check_mine(self, slide_id: str) -> None:
        if self._sharing is not None:
            self._sharing.check(slide_id)

    def _is_finished(self, known: SlideRecord, inputs_hash: str) -> bool:
        if known.inputs_hash != inputs_hash or known.status == "failed":
            return False
        return all(self._home.holds(part) for part in known.parts)

    def _reused(self, known: SlideRecord) -> SlideRecord:
        """The record of a finished slide; what an attempt with other inputs left staged goes.

        Nobody works there: the folder is locked for this run, and it has nothing to do on the slide.
        """
        remove_staging(self.paths.staging(known.slide_id))
        return replace(known, reused=True)

    def _refused(self, manifest: Manifest) -> list[SlideRecord]:
        """A record for each slide that only refused rows name; what an earlier run made of it stays in the table."""
        messages: dict[str, list[str]] = {}
        for problem in manifest.errors:
            messages.setdefault(problem.slide_id or f"(row {problem.row})", []).append(problem.message)
        refused = []
        for slide_id, texts in messages.items():
            values = {"status": "failed", "reason": "manifest_invalid", "message": "; ".join(texts)}
            known = read_record(self.paths.record(slide_id))
            done = known is not None and known.status == "done"
            refused.append(
                self._still_there(known, values) if known and done else SlideRecord({"slide_id": slide_id, **values})
            )
        return refused

    def _attempt(self, row: ManifestRow, inputs_hash: str, fetch: Fetch, tell: Tell) -> dict[str, Any]:
        """The values of the slide's row, whatever happens to it."""
        facts: dict[str, Any] = dict.fromkeys(self.work.counted, 0)
        try:
            self.work.check_wanted(row)
            with self.suspects.in_work(row.slide_id), self.store.slide(row, fetch) as acquired:
                self.suspects.check(row.slide_id, acquired.path, row.scene)
                facts |= {"size": acquired.size} | ({"md5": acquired.md5} if acquired.md5 else {})
                job = self._job(row, acquired, inputs_hash)
                values = self.work.do(row, job, partial(self._commit, row, job), tell)
                return {"status": "done", **facts, **values}
        except (OutputError, WorkersLostError):
            raise
        except Exception as error:
            # The one broad except: no fault of a slide, of ours or of a third party's code may end the cohort.
            if self.stopping.is_set():
                raise  # the workers were taken away; the slide is none the worse
            return self._failure(row.slide_id, explained(error, row), facts)

    def _failure(self, slide_id: str, error: Exception, facts: dict[str, Any]) -> dict[str, Any]:
        status, reason, message = verdict(slide_id, error)
        message = public_text(message)  # whatever a library says of a URL
        logger.warning("%s: %s, %s: %s", slide_id, status, reason, message)
        learnt = error.facts if isinstance(error, MuseError) else {}
        return {**facts, **learnt, "status": status, "reason": reason, "message": message}

    def _settle(
        self, row: ManifestRow, known: SlideRecord | None, inputs_hash: str, values: dict[str, Any]
    ) -> SlideRecord:
        """Put on record what became of a slide; where nothing did, what an earlier run made of it stays."""
        self._check_mine(row.slide_id)
        untouched = values["status"] == "failed" or values.get("reason") == "no_regions"
        if untouched and known is not None and known.status == "done":
            return self._still_there(known, values)
        parts = values.pop("parts", ())
        if values["status"] != "done":
            self.work.clear(row.slide_id)
        record = SlideRecord({**identity(row), **values}, inputs_hash, parts)
        self._home.keep(record)
        remove_staging(self.paths.staging(row.slide_id))
        return record

    def _still_there(self, known: SlideRecord, values: dict[str, Any]) -> SlideRecord:
        """The record of a slide that was done once and now was not: its parts stay, and so does its record on disk."""
        kept = f"{values['message']}; the {self.work.held(known)} of an earlier run are kept"
        row = {**known.row, "status": values["status"], "reason": values["reason"], "message": kept}
        return SlideRecord(row, known.inputs_hash)


@contextmanager
def open_cohort(
    options: CohortOptions,
    work: Callable[[Workers], Work[AnySummary]],
    acquire: AcquireSettings,
    *,
    dask_scheduler: str | None = None,
    max_slides_on_disk: int | None = None,
) -> Iterator[CohortRun[AnySummary]]:
    """Lock the output folder, start the workers, and clean up at the end.

    Args:
        options: how the run is carried out.
        work: makes what is done to a slide, once the folder is this run's alone.
        acquire: how slides are fetched.
        dask_scheduler: address of a Dask scheduler to use instead of local workers.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once; None for the setting.

    Raises:
        OutputError: the folder is locked, read-only or full, or another command's.
        ConfigError: the tissue folder, the worker count or the scheduler is of no use.
    """
    options.check()
    home = options.output.home(share=options.share)
    paths = home.paths
    with ExitStack() as stack:
        held = stack.enter_context(hold(home, options.command, share=options.share))
        workers = stack.enter_context(open_workers(options.workers, dask_scheduler))
        store = SlideStore(paths.downloads, acquire, keep=options.keep_slides, max_slides_on_disk=max_slides_on_disk)
        stack.enter_context(store)
        logger.info("working in %s with %s", options.url or options.out, workers.description)
        held.heartbeat.work_with(workers.description)
        run = CohortRun(options, workers, store, work(workers), acquire, held, home)
        # Before the workers are closed: a slide that loses them then is not a slide that failed.
        stack.callback(run.stopping.set)
        stack.callback(run.suspects.forget)
        yield run


def do_all(run: CohortRun[Any], items: Iterable[Item | None], do: Callable[[Item], Outcome]) -> Iterator[Outcome]:
    """Do slides, `run.slides_in_flight` at once, and yield what each came to as it is done (not in manifest order).

    Args:
        run: the run they belong to.
        items: manifest rows, or groups of them; None where there is nothing to begin for now.
        do: what does one, such as `run.do_slide`. It runs in threads that see the caller's context variables.

    Raises:
        OutputError: the output cannot be written any more; nothing further is begun.
    """
    threads = ThreadPoolExecutor(MOST_SLIDES_IN_FLIGHT, thread_name_prefix="slide")
    pending: set[Future[Outcome]] = set()
    try:
        for item in items:
            if item is not None:
                pending.add(threads.submit(copy_context().run, do, item))
            if item is None and not pending:
                time.sleep(LOOK_EVERY_S)
            elif item is None or len(pending) >= run.slides_in_flight:
                patience_s = LOOK_EVERY_S if item is None else None
                done, pending = wait(pending, patience_s, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(pending))
    finally:
        # After an error or Ctrl-C nobody waits for slides that are half done: the next run takes them up.
        run.stopping.set()
        threads.shutdown(wait=False, cancel_futures=True)


def do_manifest(run: CohortRun[Any], manifest: Manifest, watcher: Watcher = NOBODY) -> list[SlideRecord]:
    """Do every slide of a manifest, watched; the records are for `run.finish`.

    Raises:
        OutputError: its slides and those that the folder holds don't go together, or the output cannot be written any
            more; the slides table tells of what was done until then.
        WorkersLostError: there is nobody left to work; the same.
    """
    run.begin(manifest)
    records: list[SlideRecord] = []
    run.heartbeat.expect(len(manifest.rows))
    watcher.begin(manifest)
    try:
        for record in do_all(run, run.to_do(manifest.rows), partial(run.do_slide, tell=watcher.pieces)):
            records.append(record)
            watcher.slide(record)
    except (OutputError, WorkersLostError):
        run.finish(manifest, records)  # what was done can be queried, if there is room for the table
        raise
    return records
