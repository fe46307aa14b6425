"""What a run keeps on disk while it goes on: its checkpoint, the teacher's backbone as it is, and older ones beside."""

from pathlib import Path
from typing import Any

from muse_core.errors import TrainingError
from muse_core.machine.files import output_errors
from muse_core.models.backbone import MuseBackbone
from muse_core.pretrain.export import export
from muse_core.pretrain.run import PretrainRun
from muse_core.pretrain.standardise import with_standard_map
from muse_core.training.checkpoint import PRETRAINING, keep_previous, not_finite, save_checkpoint

TEACHERS_NAME = "teachers"


def save_run(run: PretrainRun, out: Path) -> None:
    """Write the checkpoint, the teacher's backbone as it is now, and its card.

    Raises:
        TrainingError: the run holds numbers that are not finite; the checkpoint before stands.
        OutputError: no space is left, or the folder cannot be written.
    """
    tensors = run.tensors()
    wrong = not_finite(tensors)
    if wrong:
        raise TrainingError(
            f"step {run.step}: {wrong} holds numbers that are not finite; the checkpoint before stands",
            reason="loss_not_finite",
        )
    path = out / PRETRAINING.file_name
    keep_previous(path, run.settings.run.keep_checkpoints - 1)
    save_checkpoint(path, tensors, run.about(), PRETRAINING)
    export(_exported(run), run.settings, out, about=_card(run))


def keep_teacher(run: PretrainRun, out: Path) -> None:
    """Write the teacher's backbone at the end of an epoch beside those of earlier ones.

    Raises:
        OutputError: no space is left, or the folder cannot be written.
    """
    folder = out / TEACHERS_NAME / f"epoch-{run.feed.epoch + 1:04}"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    export(run.teacher.backbone, run.settings, folder, about=_card(run))


def _exported(run: PretrainRun) -> MuseBackbone:
    """The teacher's backbone; of a finished run with its map standardised, where the settings say so."""
    backbone, mpp = run.teacher.backbone, run.settings.standardised_at_mpp
    if not mpp or run.step < run.steps:
        return backbone
    return with_standard_map(backbone, run.feed.dataset, mpp=mpp, seed=run.settings.seed)


def _card(run: PretrainRun) -> dict[str, Any]:
    return {
        "step": run.step,
        "steps": run.steps,
        "epochs": run.step / run.feed.steps_per_epoch,
        "n_rois": len(run.feed.dataset),
        "dataset": run.feed.dataset.fingerprint,
        "seconds": round(run.seconds, 1),
        "skipped_steps": run.skipped,
        "rois_left_out": sorted(run.feed.left_out),
        **({"probe": run.probe} if run.probe else {}),
    }
