"""Fine-tune and keep the result: checkpoint, record, curves and confusion."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from muse_core.config import settings_hash
from muse_core.errors import ConfigError
from muse_core.labels.scores import JudgedPatch
from muse_core.labels.summary import summary_of
from muse_core.machine.files import whole_file
from muse_core.machine.lock import locked
from muse_core.models.familiar import Familiar, fitted, windows_of
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.ndc.checkpoint import NdcCheckpoint, save_checkpoint
from muse_core.ndc.figures import draw_confusion, draw_curves
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.judge import best_cut, best_shift, calibrated, find_on_regions, judged, shifted
from muse_core.ndc.model import NdcModel
from muse_core.ndc.rates import with_rates
from muse_core.ndc.run import FinetuneRun
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.start import start_from
from muse_core.ndc.state import identity_of, state_to_go_on_from
from muse_core.training.checkpoint import FINETUNING
from muse_core.training.progress import Progress

logger = logging.getLogger(__name__)

_FAMILIAR_REGIONS = 150  # that tell what the network knows: more would say the same
_FOUND = 0.5  # score of what counts as found

CHECKPOINT_NAME = "ndc.safetensors"
RECORD_NAME = "training.json"
CONFIG_NAME = "config.json"
CURVES_NAME = "curves.png"
CONFUSION_NAME = "confusion.png"


@dataclass(frozen=True)
class FinetuneResult:
    """What a run made.

    Attributes:
        checkpoint: the safetensors file; it is written at the end alone.
        scores: by every rule on validation, as `muse evaluate ndc` gives them; empty before the end.
        seconds: of all sittings together.
        step, steps: done, and to do in all; fewer are done where the run was asked to stop.
    """

    checkpoint: Path
    scores: dict[str, object]
    seconds: float
    step: int
    steps: int


def finetune(
    data: FinetuneData,
    out: Path,
    *,
    init: str = "muse-nano",
    settings: FinetuneSettings | None = None,
    device: str = "cpu",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinetuneResult:
    """Train on labelled regions, select and calibrate on validation, and write everything into `out`.

    Args:
        data: what to learn from and what to be chosen by.
        out: a folder; made if need be.
        init: see `start.start_from`.
        settings: the recipe; None for that of the weights that ship.
        device: where the networks run: cpu or cuda.
        resume: go on from `out`'s last state, if there is one of a run that was begun with the same.
        should_stop: asked after each step; once it says yes, the state is written and the run ends early.
        on_progress: called now and then.

    Raises:
        ConfigError: a start that cannot be had, or `out` holds a run that is not to be resumed or was begun otherwise.
        TrainingError: the loss is no longer a number.
        OutputError: `out` cannot be written or is in use.
    """
    settings = settings or FinetuneSettings()
    with locked(out):
        if any(out.glob(f"fold-*/{FINETUNING.file_name}")):
            raise ConfigError(f"{out}: holds a cross-validation; give another --out")
        run = begun_run(data, out, init=init, settings=settings, device=device, resume=resume)
        run.run(on_progress, should_stop)
        scores = _finished(run, init) if run.step == settings.steps else {}
    return FinetuneResult(out / CHECKPOINT_NAME, scores, run.history.seconds, run.step, settings.steps)


def begun_run(
    data: FinetuneData, out: Path, *, init: str, settings: FinetuneSettings, device: str, resume: bool
) -> FinetuneRun:
    """A run at its first step, or where its state in `out` left it; nothing is written before that is allowed."""
    identity = identity_of(data, init=init, settings=settings)
    stored = state_to_go_on_from(out, identity, resume=resume)
    torch.manual_seed(settings.seed)
    start = start_from(
        init,
        data.class_names,
        settings.model,
        drop_path=settings.drop_path,
        own_geometry=not settings.loss.dense,
    )
    settings = with_rates(settings, start.backbone.preset).model_copy(update={"model": start.heads})
    run = FinetuneRun(start.net, start.backbone, data, settings=settings, out=out, device=device, identity=identity)
    if stored is not None:
        run.restore(stored)
    logger.info("%s: %s step %d of %d", out, "goes on from" if stored else "begins at", run.step, settings.steps)
    with whole_file(out / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps({"init": init, **settings.model_dump(mode="json")}, indent=1), encoding="utf-8")
    return run


def calibrated_checkpoint(
    checkpoint: NdcCheckpoint, data: FinetuneData, *, device: str = "cpu"
) -> tuple[NdcCheckpoint, list[JudgedPatch]]:
    """Threshold, scores and, of a heat, the shift of classes as validation wants them; what its tissue looks like.

    Args:
        checkpoint: not calibrated; its network's last biases take up the shift.
        data: what was learned from and what is chosen by.
        device: where the network runs.

    Returns:
        The checkpoint, calibrated, and what it finds on the regions of validation at its threshold.
    """
    regions, n_classes = data.validation, len(data.class_names)
    found = find_on_regions(NdcModel(checkpoint, device=device).candidates, regions)
    cut, _, _ = best_cut(found, regions, n_classes)
    if checkpoint.head.readout == "heat":
        shift = best_shift(found, regions, n_classes, cut)
        checkpoint.net.shift_classes(torch.from_numpy(shift).float())
        found = [shifted(one, shift) for one in found]
        cut, _, _ = best_cut(found, regions, n_classes)
    head = replace(checkpoint.head, calibration=calibrated(found, regions, cut))
    rows = [judged(one, region, least_score=cut) for one, region in zip(found, regions, strict=True)]
    checkpoint = replace(checkpoint, head=head)
    return replace(checkpoint, familiar=_familiar(checkpoint, data, device=device)), rows


def _finished(run: FinetuneRun, init: str) -> dict[str, object]:
    """Calibrate the best weights on validation and write checkpoint, record and pictures; the scores there."""
    data, out, settings = run.data, run.out, run.settings
    notes = {"settings": settings_hash(settings), "init": Path(init).name}
    best = replace(run.checkpoint(run.best), notes=notes)
    checkpoint, rows = calibrated_checkpoint(best, data, device=str(run.device))
    scores = summary_of(rows, data.class_names)
    save_checkpoint(checkpoint, out / CHECKPOINT_NAME)
    _write_record(run, scores, out)
    draw_curves(run.history, out / CURVES_NAME, title=f"NDC fine-tuning, seed {settings.seed}")
    draw_confusion(rows, data.class_names, out / CONFUSION_NAME)
    return scores


def _familiar(checkpoint: NdcCheckpoint, data: FinetuneData, *, device: str) -> Familiar | None:
    """What the tissue that was learned from looks like to the network: windows of regions at even steps."""
    regions = [*data.labelled, *data.validation]
    chosen = [regions[row] for row in np.unique(np.linspace(0, len(regions) - 1, _FAMILIAR_REGIONS).astype(int))]
    model = NdcModel(checkpoint, device=device)
    windows = []
    for region, found in zip(chosen, find_on_regions(model.find, chosen), strict=True):
        sure = found.score >= _FOUND
        windows += windows_of(region.image, found.xy[sure], found.score[sure], mpp=region.mpp, network_mpp=NETWORK_MPP)
    return fitted(np.stack(windows)) if windows else None


def _write_record(run: FinetuneRun, scores: dict[str, object], out: Path) -> None:
    record = {
        "scores": scores,
        "seconds": run.history.seconds,
        "validations": [vars(one) for one in run.history.validations],
        "losses": run.history.losses,
        "parts": ["total", "reg", "type", "cons", "dense"],
    }
    with whole_file(out / RECORD_NAME) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")
