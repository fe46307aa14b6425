"""The flow `infer-slides`: a manifest or a watched folder of slides to classified nuclei and a report."""

import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.artifacts import artifact_key, publish_link
from flows.ending import ends_in_one_line
from flows.gpu import gpus_wanted
from flows.slides import do_slides, final_state, news_state, publish_slides
from muse_core.cohort.inbox import Inbox, read_inbox
from muse_core.cohort.manifest import with_scene
from muse_core.cohort.output import Output, known_ids_of, opened_output
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import summary_text
from muse_core.config import load_settings
from muse_core.errors import ConfigError
from muse_core.infer import (
    InferOptions,
    InferSettings,
    InferSummary,
    check_inputs,
    open_infer,
    read_inputs,
    read_watched,
    settings_and_models,
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


@flow(name=KEY)
@ends_in_one_line
def infer_slides(
    slides: str | Path,
    out: str | Path,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    workers: int = 0,
    regions: Path | None = None,
    mpp: float | None = None,
    scene: int | None = None,
    tissue: Path | None = None,
    keep_slides: bool = True,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    watch: bool = False,
    settled_minutes: float = 0.0,
    report: Path | None = None,
    share: bool = False,
) -> dict[str, Any] | State[Any]:
    """Infer slides that are new or changed; ends failed, all else kept, when a slide failed or tiles were unreadable.

    Args:
        slides: a manifest, a slide or image, a folder or glob of them, or the URL of one in an object store.
        out: output folder, or the URL of one in an object store.
        checkpoint: weights of `muse finetune`, or a registry folder of `finetune-ndc`; None for those that ship.
        device: where tiles are decoded and the network runs: auto, cpu or cuda.
        workers: worker processes that slides are shared out to, each with a GPU of its own; 0 for this one.
        regions: GeoJSON that limits the work on the one slide there is, or a folder of `<slide_id>.geojson`.
        mpp: µm/px of slides whose manifest row gives none, whatever the file says; of images.
        scene: which of several pictures in each file whose manifest row gives none; None for the largest.
        tissue: folder of edited tissue polygons to use instead of finding tissue.
        keep_slides: keep fetched slides, or delete each after use.
        config: settings as TOML.
        overrides: single settings, `key=value`.
        watch: the folder or glob may hold no slide yet, for a schedule that takes what is put there.
        settled_minutes: with watch, take a slide once two runs, so many minutes apart or more, found all of its files
            the same; 0 takes what is there.
        report: the HTML report to write; None for `OUT/report.html`.
        share: runs with the same parameters, on other machines, do other slides of the folder meanwhile; not of a
            watched one.

    Returns:
        The run's counts, the same as `muse infer --json`.
    """
    settings = load_settings(InferSettings, config, overrides)
    if share and watch:
        raise ConfigError("share: not with watch, which remembers what has arrived; give one of them")
    with opened_output(out, share=share) as output:
        options = InferOptions(
            out=output.path,
            url=output.url,
            checkpoint=resolve_checkpoint(checkpoint),
            device=resolve_device(device),
            workers=workers,
            regions=regions,
            tissue_folder=tissue,
            keep_slides=keep_slides,
            share=share,
        )
        known = known_ids_of(output)
        listed = read_watched(slides, mpp, known=known) if watch else read_inputs(slides, mpp, known=known)
        found = with_scene(listed, scene)
        get_run_logger().info("%s: %d slides, %d problems", slides, len(found.rows), len(found.problems))
        check_inputs(found, regions, may_be_empty=watch)
        key = artifact_key(KEY)
        with open_infer(options, settings) as run:
            inbox = read_inbox(run.paths.inbox, time.time()) if watch else None
            run.begin(found)  # all that lies there: what waits will be redone too, and holds nothing up
            if inbox is not None:
                depends_on = settings_and_models(options, settings)
                found = inbox.due(run.versioned(found), settled_s=60 * settled_minutes, depends_on=depends_on)
                inbox.keep()
            records = do_slides(run, found.rows, verb="infer", key=key, gpus=gpus_wanted(options.device, workers))
            summary = run.finish(found, records)
            news = None if inbox is None else _news(inbox, records, summary)
            if inbox is not None:
                run.keep_tables()
        page, digest = _reported(output, report)
        text = summary_text(summary, run.paths) + "\n" + digest
        publish_slides(records, text, key=key, columns=SHOWN_COLUMNS)
        if page is not None:
            publish_link(page, "Report of all slides", key=key, of="report")
        return final_state(summary) if news is None else news_state(summary, news)


def _reported(output: Output, path: Path | None) -> tuple[str | None, str]:
    """The report's URL and its first lines as Markdown, as far as they can be had.

    Slides that are done are done: whatever ails the report is a line of the log, and the run ends as its slides say.
    """
    try:
        page, digest = refresh_report(output, path), digest_text(output)
    except Exception as error:  # a fault of ours, too, is no fault of the slides
        hint = "the tables are kept; write it with `muse report`"
        get_run_logger().error("the report is not written: %s: %s; %s", type(error).__name__, error, hint)
        return None, ""
    get_run_logger().info("%s", page or "no slide is finished, so there is nothing to report")
    return page, digest


def _news(inbox: Inbox, records: list[SlideRecord], summary: InferSummary) -> list[str]:
    """What went wrong with slides of a watched folder and was not told before; the rest waits in quarantine."""
    bad_tiles = [
        {key: str(one.row.get(key) or "") for key in ("slide_id", "reason", "message")}
        for one in records
        if one.status == "done" and one.row.get("n_failed_tiles")
    ]
    news = inbox.judge(records, [*summary.failures, *bad_tiles])
    inbox.keep()
    for slide_id, one in inbox.waiting():
        then = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.next_try))
        get_run_logger().info("%s: in quarantine (%s, %d times), next try %s", slide_id, one.reason, one.tries, then)
    return news
