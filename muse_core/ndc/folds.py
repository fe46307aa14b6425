"""Cross-validation by case."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_core.errors import ConfigError
from muse_core.labels.regions import Region
from muse_core.labels.scores import MAIN_RULE, JudgedPatch, counts_of, score_counts
from muse_core.labels.summary import summary_of
from muse_core.machine.files import whole_file
from muse_core.machine.lock import locked
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.figures import draw_confusion
from muse_core.ndc.finetune import CONFUSION_NAME, begun_run
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.judge import best_cut, judged
from muse_core.ndc.settings import FinetuneSettings
from muse_core.training.checkpoint import FINETUNING
from muse_core.training.progress import Progress

FOLDS_NAME = "folds.json"


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
    with locked(out):
        if (out / FINETUNING.file_name).exists():
            raise ConfigError(f"{out}: holds a run without folds; give another --out")
        if not resume and any(out.glob(f"fold-*/{FINETUNING.file_name}")):
            raise ConfigError(f"{out}: holds a cross-validation; go on with --resume, or give another --out")
        answers: list[_Fold] = []
        for fold, (held_out, folder) in enumerate(zip(parts, folders, strict=True)):
            rest = [region for index, region in enumerate(regions) if index not in held_out]
            unseen = [regions[index] for index in sorted(held_out)]
            part = FinetuneData(data.class_names, rest, data.unlabelled, unseen)
            run = begun_run(part, folder, init=init, settings=settings, device=device, resume=resume)
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
