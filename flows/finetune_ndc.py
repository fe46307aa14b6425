"""The flow `finetune-ndc`: labelled nuclei to a checkpoint, scored, and in use from then on if it is better."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import artifact_key, publish
from flows.ending import ends_in_one_line
from flows.gpu import gpu_slots, gpus_wanted
from flows.training import as_options, train
from muse_core.ndc.promote import promote, run_id, score_of_folds, score_on_validation
from muse_core.ndc.recipe import load_finetune_settings
from muse_core.ndc.registry import Decision, ModelScore
from muse_core.ndc.settings import FinetuneSettings

KEY = "finetune-ndc"


@task(task_run_name="evaluate {checkpoint.name}", cache_policy=NO_CACHE)
def evaluate(checkpoint: Path, dataset: str, data: Path, settings: FinetuneSettings) -> ModelScore:
    """Score the checkpoint on validation."""
    score = score_on_validation(checkpoint, dataset, data, settings=settings)
    get_run_logger().info("%s: mean class F1 %.4f on %s", checkpoint, score.mean_class_f1, score.measure)
    return score


@task(task_run_name="register {checkpoint.name}", cache_policy=NO_CACHE)
def register(
    registry: Path,
    checkpoint: Path,
    scores: tuple[ModelScore, ...],
    dataset: str,
    data: Path,
    settings: FinetuneSettings,
) -> Decision:
    """Put the checkpoint into use if it is better than the one that is."""
    decision = promote(registry, checkpoint, scores, dataset, data, settings=settings)
    get_run_logger().info("%s: %s; %s", checkpoint, "in use now" if decision.taken else "not taken", decision.reason)
    return decision


@flow(name=KEY)
@ends_in_one_line
def finetune_ndc(
    dataset: str,
    data: Path,
    out: Path,
    registry: Path = Path("models/ndc"),
    init: str = "muse-nano",
    unlabelled: str | None = None,
    unlabelled_mpp: float | None = None,
    folds: int = 0,
    recipe: str = "heat",
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
) -> dict[str, Any]:
    """Fine-tune, score, and register; a crash is resumed, and so is a run of the flow started again on the same labels.

    Args:
        dataset: brca-m2c, ocelot, puma, or lab.
        data: its folder.
        out: output folder; each set of labels and settings is trained in a folder of its own below.
        registry: folder of the checkpoint in use; `muse infer --checkpoint` and `infer-slides` take it as it is.
        init: where to start: a checkpoint file, muse-nano, muse-nano-ndc, imagenet or none.
        unlabelled: tissue without labels: a ROI dataset or a folder of images.
        unlabelled_mpp: µm/px of those images.
        folds: cross-validate by case first, with so many folds, and compare by that where the one in use was too.
        recipe: heat, that of the weights that ship, or paper.
        config: settings as TOML, over the recipe's.
        overrides: single settings, `key=value`.
        device: where it is trained: auto, cpu or cuda.

    Returns:
        `checkpoint`, its `mean_class_f1`, whether it was `taken`, the `reason`, and `in_use`, the registry's file.
    """
    settings = load_finetune_settings(recipe, config, overrides)  # a mistake shows before anything is trained
    name = run_id(dataset, data, init=init, unlabelled=unlabelled, unlabelled_mpp=unlabelled_mpp, settings=settings)
    get_run_logger().info("%s: run %s", data, name)
    out = out / name
    arguments: tuple[str, ...] = (
        "finetune",
        "--dataset",
        dataset,
        "--data",
        str(data),
        "--init",
        init,
        "--recipe",
        recipe,
        "--device",
        device,
        "--resume",
        "-v",
    )
    if unlabelled is not None:
        arguments += ("--unlabelled", unlabelled)
    if unlabelled_mpp is not None:
        arguments += ("--unlabelled-mpp", str(unlabelled_mpp))
    arguments += as_options(config, overrides)
    scores: list[ModelScore] = []
    with gpu_slots(gpus_wanted(device, 1)):
        if folds:
            answer = train((*arguments, "--folds", str(folds)), out / "folds")
            scores.append(score_of_folds(answer, dataset, data, settings=settings))
        checkpoint = Path(train(arguments, out)["checkpoint"])
    scores.append(evaluate(checkpoint, dataset, data, settings))
    decision = register(registry, checkpoint, tuple(scores), dataset, data, settings)
    _publish(decision, scores, out, registry)
    return {
        "checkpoint": str(checkpoint),
        "mean_class_f1": decision.candidate.mean_class_f1,
        "taken": decision.taken,
        "reason": decision.reason,
        "in_use": str(registry / decision.current.checkpoint),
    }


def _publish(decision: Decision, scores: list[ModelScore], out: Path, registry: Path) -> None:
    """Show what was compared and decided: `finetune-ndc-scores` and `finetune-ndc-summary`."""
    rows = [_row("candidate", score) for score in scores]
    rows += [_row("in use before", decision.in_use)] if decision.in_use else []
    title = "The new checkpoint is in use" if decision.taken else "The checkpoint in use stays"
    text = (
        f"# {title}\n\n{decision.reason[0].upper()}{decision.reason[1:]}.\n\n"
        f"- In use: `{registry / decision.current.checkpoint}` (sha256 `{decision.current.sha256}`, registered "
        f"{decision.current.registered})\n"
        f"- The new one's curves, confusion and scores: `{out}` (`curves.png`, `confusion.png`, `training.json`)\n"
    )
    publish(rows, text, key=artifact_key(KEY), of="scores", description="F1 by the main rule, 0 to 1")


def _row(name: str, score: ModelScore) -> dict[str, Any]:
    classes = {f"{class_name} F1": value for class_name, value in score.class_f1.items()}
    measured = {"dataset": score.measure.dataset, "split": score.measure.split, "rule": score.measure.protocol}
    return {
        "checkpoint": name,
        **measured,
        "mean class F1": score.mean_class_f1,
        "detection F1": score.detection_f1,
        **classes,
        "labels": score.n_labels,
    }
