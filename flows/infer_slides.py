"""The flow `infer-slides`: a manifest or a watched folder of slides to classified nuclei and a report."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from flows.gpu import gpus_wanted
from flows.slides import do_slides, done_slide, final_state, publish_slides
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import CohortRun
from muse_core.config import load_settings
from muse_core.infer import (
    InferOptions,
    InferSettings,
    check_inputs,
    open_infer,
    read_inputs,
    read_watched,
    summary_text,
)
from muse_core.machine.device import resolve_device
from muse_core.ndc.registry import resolve_checkpoint
from muse_core.report import digest_text, refresh_report

KEY = "infer-slides"
SHOWN_COLUMNS = (
    "n_nuclei",
    "tissue_mm2",
    "seconds_per_mm2",
    "read_share",
    "network_share",
    "write_share",
    "n_failed_tiles",
    "mpp_x",
    "checkpoint",
)


@task(task_run_name="infer {row.slide_id}", cache_policy=NO_CACHE)
def infer_slide(run: CohortRun, row: ManifestRow) -> SlideRecord | State[Any]:
    """Find and classify the nuclei of one slide."""
    return done_slide(run, row)


@task(task_run_name="read slides", cache_policy=NO_CACHE)
def read_slides(slides: Path, mpp: float | None, watch: bool, settled_minutes: float) -> Manifest:
    """See which slides there are."""
    found = read_watched(slides, mpp, settled_s=60 * settled_minutes) if watch else read_inputs(slides, mpp)
    get_run_logger().info("%s: %d slides, %d problems", slides, len(found.rows), len(found.problems))
    return found


@task(task_run_name="report", cache_policy=NO_CACHE)
def report_cohort(out: Path, report: Path | None) -> Path | None:
    """Write the report of every slide in the folder, where one was done since it was written."""
    page = refresh_report(out, report)
    get_run_logger().info("%s", page or "no slide is finished, so there is nothing to report")
    return page


@flow(name=KEY)
def infer_slides(
    slides: Path,
    out: Path,
    checkpoint: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    regions: Path | None = None,
    mpp: float | None = None,
    tissue: Path | None = None,
    keep_slides: bool = True,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    watch: bool = False,
    settled_minutes: float = 0.0,
    report: Path | None = None,
) -> dict[str, Any] | State[Any]:
    """Infer slides that are new or changed; ends failed, all else kept, when a slide failed or tiles were unreadable.

    Args:
        slides: a manifest, a slide or image, a folder or glob of them.
        out: output folder.
        checkpoint: weights of `muse finetune`, or a registry folder of `finetune-ndc`; None for those that ship.
        device: where tiles are decoded and the network runs: auto, cpu or cuda.
        workers: worker processes that slides are shared out to, each with a GPU of its own; 0 for this one.
        regions: GeoJSON that limits the work on the one slide there is, or a folder of `<slide_id>.geojson`.
        mpp: µm/px of slides whose manifest row gives none, whatever the file says; of images.
        tissue: folder of edited tissue polygons to use instead of finding tissue.
        keep_slides: keep fetched slides, or delete each after use.
        config: settings as TOML.
        overrides: single settings, `key=value`.
        watch: the folder or glob may hold no slide yet, for a schedule that takes what is put there.
        settled_minutes: with watch, leave files that changed within so many minutes: they may still be growing.
        report: the HTML report to write; None for `OUT/report.html`.

    Returns:
        The run's counts, the same as `muse infer --json`.
    """
    settings = load_settings(InferSettings, config, overrides)
    options = InferOptions(
        out=out,
        checkpoint=resolve_checkpoint(checkpoint),
        device=resolve_device(device),
        workers=workers,
        regions=regions,
        tissue_folder=tissue,
        keep_slides=keep_slides,
    )
    found = read_slides(slides, mpp, watch, settled_minutes)
    check_inputs(found, regions, may_be_empty=watch)
    with open_infer(options, settings) as run:
        records = do_slides(run, found.rows, infer_slide, key=KEY, gpus=gpus_wanted(options.device, workers))
        summary = run.finish(found, records)
    page = report_cohort(out, report)
    publish_slides(records, summary_text(summary, out) + "\n" + digest_text(out), key=KEY, columns=SHOWN_COLUMNS)
    if page is not None:
        create_link_artifact(page.absolute().as_uri(), link_text="Report of all slides", key=f"{KEY}-report")
    return final_state(summary)
