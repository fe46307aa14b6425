"""Fine-tune and keep the result: checkpoint, record, curves and confusion; or cross-validate by case."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from muse_core.cohort.paths import RunPaths, locked
from muse_core.config import settings_hash
from muse_core.errors import ConfigError
from muse_core.labels.scores import MAIN_RULE, JudgedPatch, counts_of, score_counts
from muse_core.labels.summary import summary_of
from muse_core.machine.files import whole_file
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.figures import draw_confusion, draw_curves
from muse_core.ndc.judge import best_cut, calibrated, judged
from muse_core.ndc.model import NdcCheckpoint, save_checkpoint
from muse_core.ndc.regions import Region
from muse_core.ndc.run import FinetuneData, FinetuneRun, Progress
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.start import start_from
from muse_core.ndc.state import STATE_NAME, identity_of, stored_state

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "ndc.safetensors"
RECORD_NAME = "training.json"
CONFIG_NAME = "config.json"
CURVES_NAME = "curves.png"
CONFUSION_NAME = "confusion.png"
FOLDS_NAME = "folds.json"


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
    with locked(RunPaths(out)):
        if any(out.glob(f"fold-*/{STATE_NAME}")):
            raise ConfigError(f"{out}: holds a cross-validation; give another --out")
        run = _begun(data, out, init=init, settings=settings, device=device, resume=resume)
        run.run(on_progress, should_stop)
        scores = _finished(run, init) if run.step == settings.steps else {}
    return FinetuneResult(out / CHECKPOINT_NAME, scores, run.history.seconds, run.step, settings.steps)


def _begun(
    data: FinetuneData, out: Path, *, init: str, settings: FinetuneSettings, device: str, resume: bool
) -> FinetuneRun:
    """A run at its first step, or where its state in `out` left it; nothing is written before that is allowed."""
    identity = identity_of(data, init=init, settings=settings)
    stored = stored_state(out, identity, resume=resume)
    torch.manual_seed(settings.seed)
    start = start_from(init, data.class_names, settings.model)
    run = FinetuneRun(start.net, start.backbone, data, settings=settings, out=out, device=device, identity=identity)
    if stored is not None:
        run.restore(stored)
    logger.info("%s: %s step %d of %d", out, "goes on from" if stored else "begins at", run.step, settings.steps)
    with whole_file(out / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps({"init": init, **settings.model_dump(mode="json")}, indent=1), encoding="utf-8")
    return run


def _finished(run: FinetuneRun, init: str) -> dict[str, object]:
    """Calibrate the best weights on validation and write checkpoint, record and pictures; the scores there."""
    data, out, settings = run.data, run.out, run.settings
    found = run.found_by(run.best, data.validation)
    cut, _, _ = best_cut(found, data.validation, len(data.class_names))
    head = replace(run.checkpoint(run.best).head, calibration=calibrated(found, data.validation, cut))
    rows = [judged(one, region, least_score=cut) for one, region in zip(found, data.validation, strict=True)]
    scores = summary_of(rows, data.class_names)
    notes = {"settings": settings_hash(settings), "init": Path(init).name}
    save_checkpoint(NdcCheckpoint(run.best, run.backbone, head, notes), out / CHECKPOINT_NAME)
    _write_record(run, scores, out)
    draw_curves(run.history, out / CURVES_NAME, title=f"NDC fine-tuning, seed {settings.seed}")
    draw_confusion(rows, data.class_names, out / CONFUSION_NAME)
    return scores


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


@dataclass(frozen=True)
class _Fold:
    """What a model found on the regions that it did not learn from."""

    found: list[NucleiFound]
    regions: list[Region]


def cross_validate(
    data: FinetuneData,
    out: Path,
    *,
    folds: int,
    init: str = "muse-nano",
    settings: FinetuneSettings | None = None,
    device: str = "cpu",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, Progress], None] = lambda fold, progress: None,
) -> dict[str, object] | None:
    """Train once a fold without its cases and score it there: every nucleus is judged by a model that never saw it.

    Training and validation regions are pooled. The last averaged weights are taken, and a fold's answers are cut where
    those of the other folds are best: nothing of a held-out fold chooses anything about the answers on it.

    Args:
        data: labelled and validation regions.
        out: a folder; each fold's state goes into one of its own, named by the number of folds.
        folds: how many; at least 2, at most one a case.
        init: see `start.start_from`.
        settings: the recipe.
        device: as for `finetune`.
        resume: as for `finetune`.
        should_stop: as for `finetune`.
        on_progress: called now and then with the fold.

    Returns:
        `folds`, `by_fold` (the cut, and the F1 on the fold at it), and the scores over all regions as
        `muse evaluate ndc` gives them; None where it was asked to stop.

    Raises:
        ConfigError: fewer cases than folds, or as for `finetune`.
        OutputError: `out` cannot be written or is in use.
    """
    settings = settings or FinetuneSettings()
    regions = [*data.labelled, *data.validation]
    parts = case_folds(regions, folds, seed=settings.seed)
    folders = [out / f"fold-{fold + 1}-of-{folds}" for fold in range(folds)]
    with locked(RunPaths(out)):
        if (out / STATE_NAME).exists():
            raise ConfigError(f"{out}: holds a run without folds; give another --out")
        if not resume and any(out.glob(f"fold-*/{STATE_NAME}")):
            raise ConfigError(f"{out}: holds a cross-validation; go on with --resume, or give another --out")
        answers: list[_Fold] = []
        for fold, (held_out, folder) in enumerate(zip(parts, folders, strict=True)):
            rest = [region for index, region in enumerate(regions) if index not in held_out]
            unseen = [regions[index] for index in sorted(held_out)]
            part = FinetuneData(data.class_names, rest, data.unlabelled, unseen)
            run = _begun(part, folder, init=init, settings=settings, device=device, resume=resume)
            run.run(lambda progress, fold=fold: on_progress(fold, progress), should_stop)  # type: ignore[misc]
            if run.step < settings.steps:
                return None
            answers.append(_Fold(run.found_by(run.average, unseen), unseen))
        return _judged_together(answers, data.class_names, out)


def _judged_together(answers: Sequence[_Fold], class_names: tuple[str, ...], out: Path) -> dict[str, object]:
    """Cut each fold's answers by the other folds', judge them, and write scores and confusion."""
    rows: list[JudgedPatch] = []
    by_fold = []
    for own in answers:
        others = [one for one in answers if one is not own]
        found = [found for one in others for found in one.found]
        cut, _, _ = best_cut(found, [region for one in others for region in one.regions], len(class_names))
        unseen = [judged(one, region, least_score=cut) for one, region in zip(own.found, own.regions, strict=True)]
        scores = score_counts(counts_of(unseen, len(class_names), MAIN_RULE), MAIN_RULE)
        by_fold.append({"cut": cut, "mean_class_f1": scores.mean_class_f1, "detection_f1": scores.detection[0]})
        rows += unseen
    answer = {"folds": len(answers), "by_fold": by_fold, **summary_of(rows, class_names)}
    with whole_file(out / FOLDS_NAME) as temporary:
        temporary.write_text(json.dumps(answer), encoding="utf-8")
    draw_confusion(rows, class_names, out / CONFUSION_NAME)
    return answer


def case_folds(regions: Sequence[Region], folds: int, *, seed: int = 0) -> list[set[int]]:
    """Rows of the regions of each fold, every case in one fold, folds of about as many regions.

    Raises:
        ConfigError: fewer cases than folds, or fewer than 2 folds.
    """
    by_case: dict[str, list[int]] = {}
    for index, region in enumerate(regions):
        by_case.setdefault(region.case, []).append(index)
    if not 2 <= folds <= len(by_case):
        raise ConfigError(f"--folds {folds}: needs 2 to {len(by_case)}, the number of cases")
    cases = sorted(by_case)
    rng = np.random.default_rng(seed)
    shuffled = sorted((cases[index] for index in rng.permutation(len(cases))), key=lambda case: -len(by_case[case]))
    parts: list[set[int]] = [set() for _ in range(folds)]
    for case in shuffled:  # largest first, each to the smallest fold so far
        min(parts, key=len).update(by_case[case])
    return parts
