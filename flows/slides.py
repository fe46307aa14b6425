"""What flows over slides share: task runs of slides, downloads retried, progress and results as artifacts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import task_run
from prefect.states import Failed
from prefect.tasks import exponential_backoff

from flows.artifacts import Progress, publish
from flows.ending import never
from flows.gpu import gpu_slots
from muse_core.cohort.acquire import Acquired, local_path
from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun, do_all
from muse_core.cohort.summary import CohortSummary
from muse_core.cohort.uris import public_uri
from muse_core.errors import AcquireError

SHOWN_ROWS = 1000  # an artifact is one database row; the whole table is slides.parquet
SMALL_BYTES = 64 << 20  # a task run costs more than a slide below this
MOST_SLIDES_A_TASK = 64
_FIRST_COLUMNS = ("slide_id", "status", "reason", "message")
_LAST_COLUMNS = ("seconds", "project")
_NAMED_FAILURES = 3


@dataclass
class Batch:
    """Slides of one task run; their records come back in it, as a failed state carries none."""

    rows: tuple[ManifestRow, ...]
    records: list[SlideRecord] = field(default_factory=list)

    def __str__(self) -> str:
        first, last = self.rows[0].slide_id, self.rows[-1].slide_id
        return first if len(self.rows) == 1 else f"{first} … {last} ({len(self.rows)} slides)"


def _worth_retrying(task_: object, run: object, state: State[Any]) -> bool:
    """Only what may be different the next time: a broken download, not a missing file or a wrong checksum."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, AcquireError) and error.reason == "download_failed"


@task(
    task_run_name="acquire {row.slide_id}",
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=30),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
)
def acquire_slide(run: CohortRun[Any], row: ManifestRow, folder: Path) -> Acquired:
    """Fetch one slide; the only task that is retried."""
    get_run_logger().info("%s: acquiring %s", row.slide_id, public_uri(row.uri))
    return run.fetch(row, folder)


def _named(verb: str) -> str:
    return f"{verb} {task_run.parameters['batch']}"


@task(retries=1, retry_condition_fn=never, cache_policy=NO_CACHE)
def do_batch(run: CohortRun[Any], batch: Batch) -> State[Any] | None:
    """Do some slides one after another; a failed one fails this task run and no other, and none of its neighbours."""
    for row in batch.rows:
        # A local file is looked at, not fetched: no task run for that.
        fetch = None if local_path(row) is not None else partial(acquire_slide, run)
        record = run.do_slide(row, fetch=fetch)
        batch.records.append(record)
        if record.status == "failed" or len(batch.rows) == 1:
            get_run_logger().info("%s: %s, %s nuclei", row.slide_id, record.status, record.row.get("n_nuclei"))
    failed = [record for record in batch.records if record.status == "failed"]
    if not failed:
        return None
    # A state, not an exception: Prefect would log a traceback for what is one line.
    name = str(failed[0].row["reason"])
    if len(batch.rows) == 1:
        return Failed(name=name, message=str(failed[0].row["message"]))
    lines = "; ".join(str(record.row["message"]) for record in failed[:_NAMED_FAILURES])
    return Failed(name=name, message=f"{len(failed)} of {len(batch.rows)} slides failed: {lines}")


def batches_of(rows: Sequence[ManifestRow], *, at_once: int) -> Iterator[Batch]:
    """Rows in the manifest's order, large slides one by one, small ones together.

    Args:
        rows: the slides.
        at_once: how many batches are worked on at once; small slides make at least twice as many, where there are
            enough.
    """
    small = [_is_small(row) for row in rows]
    most = max(1, min(MOST_SLIDES_A_TASK, sum(small) // (2 * max(1, at_once))))
    waiting: list[ManifestRow] = []
    for row, is_small in zip(rows, small, strict=True):
        if not is_small:
            yield Batch((row,))
            continue
        waiting.append(row)
        if len(waiting) == most:
            yield Batch(tuple(waiting))
            waiting = []
    if waiting:
        yield Batch(tuple(waiting))


def do_slides(
    run: CohortRun[Any], rows: Sequence[ManifestRow], *, verb: str, key: str, gpus: int = 0
) -> list[SlideRecord]:
    """Do every slide in a task run, with a progress artifact `<key>-progress`.

    Slides that an earlier run finished get no task run: what a schedule looks through again and again would fill the
    server's database.

    Args:
        run: the run over the slides.
        rows: the slides.
        verb: what is done, the first word of the task runs' names.
        key: of the flow's artifacts.
        gpus: slots of the GPU limit to hold while there is work.
    """
    run.heartbeat.expect(len(rows))
    known = [None if run.shares else run.finished(row) for row in rows]
    records = [record for record in known if record is not None]
    todo = [row for row, record in zip(rows, known, strict=True) if record is None]
    get_run_logger().info("%d slides: %d to do, %d finished before", len(rows), len(todo), len(records))
    if not todo:
        return records
    progress = Progress(key, done=len(records), of=len(rows), unit="slides")
    one_batch: Task[[CohortRun[Any], Batch], Any] = do_batch.with_options(task_run_name=partial(_named, verb))

    def do(batch: Batch) -> Batch:
        one_batch(run, batch, return_state=True).result(raise_on_failure=len(batch.records) < len(batch.rows))
        return batch

    with gpu_slots(gpus):
        for batch in do_all(run, _batches_to_do(run, todo), do):
            records += batch.records
            progress.update(len(records), batch.records[-1].slide_id)
    return records


def _batches_to_do(run: CohortRun[Any], rows: Sequence[ManifestRow]) -> Iterator[Batch | None]:
    """Batches as they may be begun; slides that runs share out come one by one."""
    if not run.shares:
        yield from batches_of(rows, at_once=run.slides_in_flight)
        return
    for row in run.to_do(rows):
        yield None if row is None else Batch((row,))


def publish_slides(records: Sequence[SlideRecord], text: str, *, key: str, columns: Sequence[str]) -> None:
    """Show the slides and the summary in the Prefect UI, `<key>-slides` and `<key>-summary`, unless nothing was done.

    Slides that failed come first, then those with a reason, such as tiles that could not be read.

    Args:
        records: the slides.
        text: the summary, Markdown.
        key: of the flow's artifacts.
        columns: of the slides table that this flow fills, shown between those that every flow does.
    """
    if all(record.reused for record in records):
        return
    shown = (*_FIRST_COLUMNS, *columns, *_LAST_COLUMNS)
    ordered = sorted(records, key=lambda one: (one.status != "failed", not one.row.get("reason"), one.slide_id))
    rows = [{column: record.row.get(column) for column in shown} for record in ordered[:SHOWN_ROWS]]
    failed = sum(record.status == "failed" for record in records)
    publish(rows, text, key=key, of="slides", description=f"{len(records)} slides, {failed} failed")


def final_state(summary: CohortSummary) -> dict[str, Any] | State[Any]:
    """What the flow ends with: its counts, or failed where something was."""
    if failed := summary.what_failed():
        return Failed(message=f"{'; '.join(failed)}; everything else is kept. See the slides artifact.")
    return summary.as_json()


def news_state(summary: CohortSummary, news: Sequence[str]) -> dict[str, Any] | State[Any]:
    """What a flow over a watched folder ends with: failed only where something new went wrong.

    Args:
        summary: of the run.
        news: what was not told before, a line each.
    """
    if not news:
        return summary.as_json()
    more = f"; and {len(news) - _NAMED_FAILURES} more" if len(news) > _NAMED_FAILURES else ""
    told = f"{'; '.join(news[:_NAMED_FAILURES])}{more}"
    return Failed(message=f"{told}. Each is told once and tried again later, at once when its file changes.")


def _is_small(row: ManifestRow) -> bool:
    """Whether a slide is known to be small; one that says nothing of its size is not."""
    path = local_path(row)
    try:
        size = row.size if row.size is not None or path is None else path.stat().st_size
    except OSError:
        return True  # a file that is not there is quickly told
    return size is not None and size < SMALL_BYTES
