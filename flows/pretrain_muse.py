"""The flow `pretrain-muse`: a ROI dataset to a pretrained backbone, in processes that may crash and be resumed."""

import json
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.tasks import exponential_backoff

from muse_core.device import gpu_count
from muse_core.errors import TrainingError
from muse_core.launch import launch
from muse_core.pretrain.settings import load_pretrain_settings

# A global concurrency limit of this name, with as many slots as there are GPUs, keeps runs from sharing one:
#   prefect gcl create muse-gpu --limit 8
GPU_LIMIT = "muse-gpu"
LOG_NAME = "pretrain.log"


def died(task_: object, run: object, state: State[Any]) -> bool:
    """Only a process that died without a word is worth starting again: what it said would be said again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrainingError) and error.reason == "crashed"


@task(
    task_run_name="pretrain {out.name}",
    retries=5,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_condition_fn=died,
    cache_policy=NO_CACHE,
)
def train(rois: str, out: Path, options: tuple[str, ...], processes: int) -> dict[str, Any]:
    """Train from the last checkpoint on, in processes of their own."""
    get_run_logger().info("%s: training in %d processes; what they say is in %s", out, processes, out / LOG_NAME)
    arguments = ["pretrain", "--rois", rois, "--out", str(out), "--resume", *options]
    return launch(arguments, log=out / LOG_NAME, processes=processes)


@flow(name="pretrain-muse")
def pretrain_muse(
    rois: str,
    out: Path,
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    processes: int | None = None,
) -> dict[str, Any]:
    """Pretrain a backbone; a crash is resumed from the last checkpoint, and so is a run of the flow started again.

    Args:
        rois: ROI dataset, folder or URL.
        out: output folder.
        config: settings as TOML, or the name of a recipe that ships.
        overrides: single settings, `key=value`.
        device: auto, cpu or cuda.
        processes: training processes on this machine; None for one a GPU.

    Returns:
        What `muse pretrain --json` says.
    """
    load_pretrain_settings(config, list(overrides))  # a mistake shows before a GPU is waited for
    gpus = 0 if device == "cpu" else gpu_count()
    count = processes or max(1, gpus)
    options = (*(["--config", str(config)] if config else []), "--device", device)
    options += tuple(word for override in overrides for word in ("--set", override))
    with concurrency([GPU_LIMIT] if gpus else [], occupy=count):
        answer = train(rois, out, options, count)
    create_markdown_artifact(markdown=_summary(answer, out), key="pretrain-muse-summary")
    return answer


def _summary(answer: dict[str, Any], out: Path) -> str:
    return (
        f"# {answer['backbone']}\n\nStep {answer['step']} of {answer['steps']}, loss {answer['loss']:.4f},"
        f" {answer['n_parameters']:,} parameters, {answer['seconds'] / 3600:.2f} h.\n\n"
        f"Curves: `{out / 'curves.png'}`, numbers: `{out / 'metrics.jsonl'}`\n\n```json\n{json.dumps(answer)}\n```\n"
    )
