"""MUSE pretraining: a student learns what its own running average says of other views of the same tissue and nuclei.

The loop stands here; what a step does is in `run`, what is kept on disk in `keep`.

Source: MUSE, https://arxiv.org/abs/2511.05170, which follows DINO, https://arxiv.org/abs/2104.14294, in all it does not
say; defaults of our own are marked in `settings`.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.machine.lock import locked
from muse_core.machine.threads import torch_threads
from muse_core.models.backbone import MuseBackbone
from muse_core.pretrain.export import BACKBONE_NAME, write_json
from muse_core.pretrain.feed import Feed
from muse_core.pretrain.keep import keep_teacher, save_run
from muse_core.pretrain.metrics import MetricsLog, draw_curves
from muse_core.pretrain.processes import Processes, joined_processes
from muse_core.pretrain.resume import stored_run
from muse_core.pretrain.run import PretrainRun
from muse_core.pretrain.settings import PretrainSettings, load_pretrain_settings
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.training.progress import Progress

CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
TENSORBOARD_NAME = "tensorboard"

Probe = Callable[[MuseBackbone], float]  # the teacher's backbone, left as it is, to an accuracy in percent


@dataclass(frozen=True)
class PretrainResult:
    """What a run made.

    Attributes:
        backbone: the safetensors file of the teacher's backbone.
        step, steps: done, and to do in all; fewer are done where the run was asked to stop.
        loss: of the last logged step.
        seconds: of steps and of cutting or waiting for their views, of all sittings together.
        n_parameters: of the backbone.
    """

    backbone: Path
    step: int
    steps: int
    loss: float
    seconds: float
    n_parameters: int


def pretrain(
    rois: Path | str,
    out: Path,
    *,
    settings: PretrainSettings | None = None,
    device: str = "cpu",
    resume: bool = False,
    probe: Probe | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> PretrainResult:
    """Train on a ROI dataset and write the teacher's backbone, a card, curves and checkpoints into `out`.

    Under torchrun every process calls this with the same arguments; the first one writes.

    Args:
        rois: a folder of `muse build-tcga-nu` or `muse import-patches`, or its URL.
        out: a folder; made if need be.
        settings: the recipe; None for that of the weights that ship.
        device: `cpu` or `cuda`.
        resume: go on from `out`'s checkpoint, if there is one.
        probe: what `settings.probe` asks for, see `evaluate.representation.probe`; called by the first process alone.
        should_stop: asked after each step; once it says yes, a checkpoint is written and the run ends early.
        on_progress: called at each logged step, by the first process alone.

    Returns:
        Where the backbone is and how far the run came.

    Raises:
        DatasetError: no dataset, or one that cannot give the views.
        ConfigError: settings that don't fit, or a checkpoint in `out` that is of another run or not to be resumed.
        TrainingError: collapsed, or a loss that is no number; the last checkpoint stays.
        OutputError: `out` cannot be written or is in use.
    """
    settings = settings or load_pretrain_settings(None, [])
    if settings.probe.dataset and probe is None:
        raise ConfigError(f"probe.dataset is {settings.probe.dataset}; give the probe, probe_for(settings), as well")
    dataset = RoiDataset(rois)
    with torch_threads(settings.run.threads), joined_processes(device) as processes, _held(out, processes):
        stored = stored_run(out, settings, resume=resume)
        run = PretrainRun(settings, Feed(dataset, settings, processes), processes, stored)
        if processes.first:
            write_json(out / CONFIG_NAME, run.resolved())
        return _train(run, out, probe, should_stop, on_progress)


def _train(
    run: PretrainRun,
    out: Path,
    probe: Probe | None,
    should_stop: Callable[[], bool],
    on_progress: Callable[[Progress], None],
) -> PretrainResult:
    """The loop: steps, and between them what is told and kept."""
    first, run_settings = run.processes.first, run.settings.run
    log = MetricsLog(out / METRICS_NAME, out / TENSORBOARD_NAME, step=run.step) if first else None
    saved_at, loss, stop = time.monotonic(), math.nan, False
    while run.step < run.steps and not stop:
        run.advance()
        kept_epochs = run_settings.keep_teachers
        if first and kept_epochs and run.feed.at_epoch_end and (run.feed.epoch + 1) % kept_epochs == 0:
            keep_teacher(run, out)
        probed = probe if run.due(run.settings.probe.every) else None
        if probed or run.due(run_settings.log_every):
            row = run.measured()
            loss = _loss_of(row)
            if log is not None:
                if probed:
                    row |= run.probed_by(probed)
                log.append(row)
                on_progress(_progress(run, row))
        stop = run.processes.any_of_us(should_stop())
        due = time.monotonic() - saved_at > 60 * run_settings.checkpoint_minutes
        if first and (due or stop or run.step == run.steps):
            save_run(run, out)
            draw_curves(out / METRICS_NAME, out / CURVES_NAME)
            saved_at = time.monotonic()
    run.processes.wait()
    n_parameters = sum(parameter.numel() for parameter in run.teacher.backbone.parameters())
    return PretrainResult(out / BACKBONE_NAME, run.step, run.steps, loss, run.seconds, n_parameters)


def _progress(run: PretrainRun, row: dict[str, Any]) -> Progress:
    return Progress(
        run.step,
        run.steps,
        _loss_of(row),
        run.seconds,
        images_per_s=row["rois_per_s"],
        data_wait_share=row["data_wait_share"],
    )


def _loss_of(row: dict[str, Any]) -> float:
    """NaN where every step since the row before was skipped."""
    return math.nan if row["loss"] is None else float(row["loss"])


def _held(out: Path, processes: Processes) -> AbstractContextManager[None]:
    return locked(out) if processes.first else nullcontext()
