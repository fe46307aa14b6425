"""The flow `evaluate-muse`: the published scores of a checkpoint, each in a task run of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.artifacts import artifact_key, publish
from flows.ending import ends_in_one_line, never
from flows.gpu import gpu_slots, gpus_wanted
from muse_core.errors import MuseError
from muse_core.evaluate.by_name import (
    Evaluation,
    ScoreName,
    check_score_names,
    evaluate_model,
    score_rows,
    scores_text,
)
from muse_core.machine.device import one_gpu, resolve_device

KEY = "evaluate-muse"


@task(task_run_name="evaluate {name}", retries=1, retry_condition_fn=never, cache_policy=NO_CACHE)
def evaluate(name: ScoreName, what: Evaluation, out: Path) -> dict[str, Any] | State[Any]:
    """One score; its failure fails this task run and no other."""
    try:
        answer = evaluate_model(name, what, out)
    except MuseError as error:
        return Failed(name=error.reason, message=str(error))  # a state: one line, where a raise would log a traceback
    get_run_logger().info("%s: %s", name, {key: answer[key] for key in ("dataset", "split", "protocol")})
    return answer


@flow(name=KEY)
@ends_in_one_line
def evaluate_muse(
    dataset: str,
    data: Path,
    out: Path,
    scores: tuple[ScoreName, ...] = ("knn", "linear"),
    checkpoint: Path | None = None,
    encoder: str | None = None,
    split: str = "val",
    mpp: float = 0.5,
    fov_px: int = 224,
    device: str = "auto",
) -> dict[str, Any] | State[Any]:
    """Score a checkpoint by published protocols; ends failed, with the others kept, when a score could not be had.

    Args:
        dataset: brca-m2c, ocelot or puma.
        data: its folder.
        out: output folder; gets `<score>.json`.
        scores: any of knn, linear, finetune (of a backbone), detect (of a detector) and ndc (of a fine-tuned model).
        checkpoint: the model of that kind; None for what ships.
        encoder: instead, for knn, linear and finetune, such as nano-imagenet or timm:NAME.
        split: val or test.
        mpp: µm/px of the tiles of knn, linear and finetune.
        fov_px: side of those tiles.
        device: where encoders run: auto, cpu or cuda.

    Returns:
        What `muse evaluate <score> --json` says, by score.
    """
    check_score_names(scores)
    what = Evaluation(dataset, data, split, checkpoint, encoder, mpp, fov_px, device=resolve_device(device))
    answers: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    with gpu_slots(gpus_wanted(what.device, 1)), one_gpu(what.device) as own:
        what = replace(what, device=own)
        for name in scores:
            state: State[Any] = evaluate(name, what, out, return_state=True)
            if state.is_completed():
                answers[name] = state.result()
            else:
                failures[name] = str(state.message)
    rows = [row for answer in answers.values() for row in score_rows(answer)]
    description = "percent; published figures are of test splits"
    publish(rows, scores_text(answers.values(), failures), key=artifact_key(KEY), of="scores", description=description)
    if failures:
        return Failed(message=f"{', '.join(failures)} failed; the other scores are kept. See the summary artifact.")
    return answers
