"""The flow `build-tcga-nu`: a manifest of slides to the ROI dataset, one task run a slide."""

from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.tasks import exponential_backoff

from muse_core.acquire import Acquired
from muse_core.build_cohort import BuildOptions, BuildRun, build_all, open_build
from muse_core.build_report import write_summary
from muse_core.build_settings import BuildSettings
from muse_core.config import load_settings
from muse_core.device import resolve_device
from muse_core.errors import AcquireError
from muse_core.manifest import Manifest, ManifestRow, read_manifest, with_mpp
from muse_core.slide_records import BuildSummary, SlideRecord, read_record
from muse_core.uris import public_uri

SHOWN_ROWS = 1000  # an artifact is one database row; the whole table is slides.parquet
SHOWN_COLUMNS = (
    "slide_id",
    "project",
    "status",
    "reason",
    "n_rois",
    "n_nuclei",
    "tissue_mm2",
    "mpp_x",
    "reader",
    "seconds",
    "message",
)


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
def acquire_slide(run: BuildRun, row: ManifestRow, folder: Path) -> Acquired:
    """Fetch one slide; the only task that is retried."""
    get_run_logger().info("%s: acquiring %s", row.slide_id, public_uri(row.uri))
    return run.fetch(row, folder)


@task(task_run_name="build {row.slide_id}", cache_policy=NO_CACHE)
def build_slide(run: BuildRun, row: ManifestRow) -> SlideRecord | State[Any]:
    """Build one slide; its failure fails this task run and no other."""
    record = run.build(row, fetch=partial(acquire_slide, run))
    get_run_logger().info("%s: %s, %s ROIs", row.slide_id, record.status, record.row.get("n_rois"))
    if record.status == "failed":
        # A state, not an exception: Prefect would log a traceback for what is one line.
        return Failed(name=str(record.row["reason"]), message=str(record.row["message"]))
    return record


@task(task_run_name="read manifest", cache_policy=NO_CACHE)
def read_slides(manifest: Path, mpp: float | None) -> Manifest:
    """Read and check the manifest."""
    checked = with_mpp(read_manifest(manifest), mpp)
    get_run_logger().info("%s: %d slides, %d problems", manifest, len(checked.rows), len(checked.problems))
    return checked


@flow(name="build-tcga-nu")
def build_tcga_nu(
    manifest: Path,
    out: Path,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    mpp: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    dask_scheduler: str | None = None,
    keep_slides: bool = True,
    max_slides_on_disk: int | None = None,
    tissue: Path | None = None,
) -> dict[str, Any] | State[Any]:
    """Build the ROI dataset of a manifest; ends failed, with everything else kept, when a slide failed.

    Args:
        manifest: manifest CSV, GDC manifest TSV, or a folder of slides.
        out: output folder.
        config: settings as TOML.
        overrides: single settings, `key=value`.
        mpp: µm/px of every slide whose manifest row gives none, whatever the file says.
        device: where slides are decoded: auto, cpu or cuda.
        workers: local worker processes; None for one a usable core.
        dask_scheduler: address of a running Dask scheduler to use instead.
        keep_slides: keep fetched slides, or delete each after use.
        max_slides_on_disk: with keep_slides off, fetched slides on the disk at once; None for the setting.
        tissue: folder of edited tissue polygons to use instead of finding tissue.

    Returns:
        The run's counts, the same as `muse build-tcga-nu --json`.
    """
    settings = load_settings(BuildSettings, config, overrides)
    options = BuildOptions(
        out=out,
        device=resolve_device(device),
        workers=workers,
        dask_scheduler=dask_scheduler,
        keep_slides=keep_slides,
        max_slides_on_disk=max_slides_on_disk,
        tissue_folder=tissue,
    )
    checked = read_slides(manifest, mpp)
    with open_build(options, settings) as run:
        records = _build_with_progress(run, checked.rows)
        summary = run.finish(checked, records)
    _publish(records, summary, write_summary(run.paths, summary))
    if summary.slides_failed:
        return Failed(
            message=f"{summary.slides_failed} slides failed; everything else is kept. See the slides artifact."
        )
    return summary.as_json()


def _build_with_progress(run: BuildRun, rows: tuple[ManifestRow, ...]) -> list[SlideRecord]:
    records: list[SlideRecord] = []
    # From a synchronous flow the answer is the id itself; the signature also tells of coroutines.
    progress = cast(
        UUID, create_progress_artifact(progress=0.0, key="build-tcga-nu-progress", description=f"{len(rows)} slides")
    )
    for record in build_all(run, rows, partial(_record_of, run)):
        records.append(record)
        percent = 100.0 * len(records) / len(rows)
        update_progress_artifact(
            progress, progress=percent, description=f"{len(records)} of {len(rows)} slides; last: {record.slide_id}"
        )
    return records


def _record_of(run: BuildRun, row: ManifestRow) -> SlideRecord:
    """What became of a slide, whatever state its task run ended in."""
    state = build_slide(run, row, return_state=True)
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    record = outcome if isinstance(outcome, SlideRecord) else read_record(run.paths.record(row.slide_id))
    assert record is not None, "a slide that was built or failed has a record"
    return record


def _publish(records: list[SlideRecord], summary: BuildSummary, text: str) -> None:
    """Show the slides, failed ones first, and the summary in the Prefect UI."""
    ordered = sorted(records, key=lambda record: (record.status != "failed", record.slide_id))
    table = [{column: record.row.get(column) for column in SHOWN_COLUMNS} for record in ordered[:SHOWN_ROWS]]
    create_table_artifact(
        table=table, key="build-tcga-nu-slides", description=f"{len(records)} slides, {summary.slides_failed} failed"
    )
    create_markdown_artifact(markdown=text, key="build-tcga-nu-summary")
