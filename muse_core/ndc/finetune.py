"""Fine-tune and keep the result: checkpoint, record, curves and confusion; or cross-validate by case."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from muse_core.config import settings_hash
from muse_core.errors import ConfigError
from muse_core.files import whole_file
from muse_core.ndc.figures import draw_confusion, draw_curves
from muse_core.ndc.judge import best_cut, calibrated, find_on_regions, judged
from muse_core.ndc.regions import Region
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.start import start_from
from muse_core.ndc.summary import summary_of
from muse_core.ndc.train import FinetuneData, FinetuneRun, Progress
from muse_core.ndc_model import NdcCheckpoint, NdcModel, save_checkpoint

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
        checkpoint: the safetensors file.
        scores: by every rule on validation, as `muse evaluate ndc` gives them.
        seconds: of all sittings together.
    """

    checkpoint: Path
    scores: dict[str, object]
    seconds: float


def finetune(
    data: FinetuneData,
    out: Path,
    *,
    init: str = "imagenet",
    settings: FinetuneSettings | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinetuneResult:
    """Train on labelled regions, select and calibrate on validation, and write everything into `out`.

    Args:
        data: what to learn from and what to be chosen by.
        out: a folder; made if need be.
        init: see `start.start_from`.
        settings: the recipe; None for that of the weights that ship.
        resume: go on from `out`'s last state, if there is one of the same settings.
        on_progress: called now and then.

    Raises:
        ConfigError: a start that cannot be had, or a state of other settings.
        TrainingError: the loss is no longer a number.
        OutputError: `out` cannot be written.
    """
    settings = settings or FinetuneSettings()
    run = _trained(data, out, init, settings, resume, on_progress)
    found = find_on_regions(NdcModel.of_checkpoint(run.checkpoint(run.best)).candidates, data.validation)
    cut, _, _ = best_cut(found, data.validation, len(data.class_names))
    head = replace(run.checkpoint(run.best).head, calibration=calibrated(found, data.validation, cut))
    rows = [judged(one, region, least_score=cut) for one, region in zip(found, data.validation, strict=True)]
    scores = summary_of(rows, data.class_names)
    notes = {"settings": settings_hash(settings), "init": Path(init).name}
    save_checkpoint(NdcCheckpoint(run.best, run.backbone, head, notes), out / CHECKPOINT_NAME)
    _write_record(run, scores, out)
    draw_curves(run.history, out / CURVES_NAME, title=f"NDC fine-tuning, seed {settings.seed}")
    draw_confusion(rows, data.class_names, out / CONFUSION_NAME)
    return FinetuneResult(out / CHECKPOINT_NAME, scores, run.history.seconds)


def _trained(
    data: FinetuneData,
    out: Path,
    init: str,
    settings: FinetuneSettings,
    resume: bool,
    on_progress: Callable[[Progress], None],
) -> FinetuneRun:
    torch.manual_seed(settings.seed)
    start = start_from(init, data.class_names, settings.model)
    run = FinetuneRun(start.net, start.backbone, data, settings=settings, out=out)
    with whole_file(out / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps({"init": init, **settings.model_dump(mode="json")}, indent=1), encoding="utf-8")
    if resume:
        run.load()
    run.run(on_progress)
    return run


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


def cross_validate(
    data: FinetuneData,
    out: Path,
    *,
    folds: int,
    init: str = "imagenet",
    settings: FinetuneSettings | None = None,
    on_progress: Callable[[int, Progress], None] = lambda fold, progress: None,
) -> dict[str, object]:
    """Train once a fold without its cases and score it there: every nucleus is judged by a model that never saw it.

    Training and validation regions are pooled. The last averaged weights are taken and one threshold for all folds, as
    nothing of a held-out fold may choose anything about its own model.

    Args:
        data: labelled and validation regions.
        out: a folder; each fold's state goes into one of its own.
        folds: how many; at least 2, at most one a case.
        init: see `start.start_from`.
        settings: the recipe.
        on_progress: called now and then with the fold.

    Returns:
        `folds`, `cut`, the scores over all regions as `muse evaluate ndc` gives them, and `by_fold`.

    Raises:
        ConfigError: fewer cases than folds.
    """
    settings = settings or FinetuneSettings()
    regions = [*data.labelled, *data.validation]
    found, order, by_fold = [], [], []
    for fold, held_out in enumerate(case_folds(regions, folds, seed=settings.seed)):
        rest = [region for index, region in enumerate(regions) if index not in held_out]
        unseen = [regions[index] for index in sorted(held_out)]
        part = FinetuneData(data.class_names, rest, data.unlabelled, unseen)
        folder = out / f"fold-{fold}"
        run = _trained(part, folder, init, settings, True, lambda progress, fold=fold: on_progress(fold, progress))  # type: ignore[misc]
        ours = find_on_regions(NdcModel.of_checkpoint(run.checkpoint(run.average)).candidates, unseen)
        by_fold.append(vars(run.history.validations[-1]))
        found += ours
        order += unseen
    cut, _, _ = best_cut(found, order, len(data.class_names))
    rows = [judged(one, region, least_score=cut) for one, region in zip(found, order, strict=True)]
    answer = {"folds": folds, "cut": cut, "by_fold": by_fold, **summary_of(rows, data.class_names)}
    with whole_file(out / FOLDS_NAME) as temporary:
        temporary.write_text(json.dumps(answer), encoding="utf-8")
    draw_confusion(rows, data.class_names, out / CONFUSION_NAME)
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
