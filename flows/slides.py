"""What flows over slides share: a task run a slide, downloads retried, progress and results as artifacts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.tasks import exponential_backoff

from flows.artifacts import publish
from flows.gpu import gpu_slots
from muse_core.cohort.acquire import Acquired
from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.records import SlideRecord, read_record
from muse_core.cohort.run import CohortRun, do_all
from muse_core.cohort.summary import CohortSummary
from muse_core.cohort.uris import public_uri
from muse_core.errors import AcquireError

SHOWN_ROWS = 1000  # an artifact is one database row; the whole table is slides.parquet
_FIRST_COLUMNS = ("slide_id", "project", "status", "reason")
_LAST_COLUMNS = ("seconds", "message")

SlideTask = Task[[CohortRun, ManifestRow], SlideRecord | State[Any]]


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
def acquire_slide(run: CohortRun, row: ManifestRow, folder: Path) -> Acquired:
    """Fetch one slide; the only task that is retried."""
    get_run_logger().info("%s: acquiring %s", row.slide_id, public_uri(row.uri))
    return run.fetch(row, folder)


def done_slide(run: CohortRun, row: ManifestRow) -> SlideRecord | State[Any]:
    """Do one slide inside a task run; its failure fails this task run and no other."""
    record = run.do_slide(row, fetch=partial(acquire_slide, run))
    get_run_logger().info("%s: %s, %s nuclei", row.slide_id, record.status, record.row.get("n_nuclei"))
    if record.status == "failed":
        # A state, not an exception: Prefect would log a traceback for what is one line.
        return Failed(name=str(record.row["reason"]), message=str(record.row["message"]))
    return record


def do_slides(
    run: CohortRun, rows: Sequence[ManifestRow], slide_task: SlideTask, *, key: str, gpus: int = 0
) -> list[SlideRecord]:
    """Do every slide in a task run of its own, with a progress artifact `<key>-progress`.

    Slides that an earlier run finished get no task run: what a schedule looks through again and again would fill the
    server's database.

    Args:
        run: the run over the slides.
        rows: the slides.
        slide_task: does one.
        key: of the flow's artifacts.
        gpus: slots of the GPU limit to hold while there is work.
    """
    known = [run.finished(row) for row in rows]
    records = [record for record in known if record is not None]
    todo = [row for row, record in zip(rows, known, strict=True) if record is None]
    get_run_logger().info("%d slides: %d to do, %d finished before", len(rows), len(todo), len(records))
    percent = 100.0 * len(records) / max(1, len(rows)) if todo else 100.0
    # From a synchronous flow the answer is the id itself; the signature also tells of coroutines.
    progress = cast(
        UUID, create_progress_artifact(progress=percent, key=f"{key}-progress", description=f"{len(todo)} slides to do")
    )
    with gpu_slots(gpus if todo else 0):
        for record in do_all(run, todo, partial(_record_of, slide_task, run)):
            records.append(record)
            percent = 100.0 * len(records) / len(rows)
            update_progress_artifact(
                progress, progress=percent, description=f"{len(records)} of {len(rows)} slides; last: {record.slide_id}"
            )
    return records


def _record_of(slide_task: SlideTask, run: CohortRun, row: ManifestRow) -> SlideRecord:
    """What became of a slide, whatever state its task run ended in."""
    state = cast(Callable[..., State[Any]], slide_task)(run, row, return_state=True)
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    record = outcome if isinstance(outcome, SlideRecord) else read_record(run.paths.record(row.slide_id))
    assert record is not None, "a slide that was done or failed has a record"
    return record


def publish_slides(records: Sequence[SlideRecord], text: str, *, key: str, columns: Sequence[str]) -> None:
    """Show the slides and the summary in the Prefect UI: `<key>-slides`, `<key>-summary`.

    Slides that failed come first, then those with a reason, such as tiles that could not be read.

    Args:
        records: the slides.
        text: the summary, Markdown.
        key: of the flow's artifacts.
        columns: of the slides table that this flow fills, shown between those that every flow does.
    """
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
