"""What flows that train share: a `muse` command in processes of its own, which may crash and are then resumed."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.tasks import exponential_backoff

from muse_core.errors import TrainingError
from muse_core.machine.launch import launch


def died(task_: object, run: object, state: State[Any]) -> bool:
    """Only a process that died without a word is worth starting again: what it said would be said again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrainingError) and error.reason == "crashed"


@task(
    task_run_name="{arguments[0]} {out.name}",
    retries=5,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_condition_fn=died,
    cache_policy=NO_CACHE,
)
def train(arguments: tuple[str, ...], out: Path, processes: int = 1) -> dict[str, Any]:
    """Train from the last checkpoint in `out` on; what the processes say goes into `OUT/<command>.log`.

    Args:
        arguments: of `muse`, without `--out` and `--json`.
        out: output folder.
        processes: how many.
    """
    log = out / f"{arguments[0]}.log"
    get_run_logger().info("%s: training in %d processes; what they say is in %s", out, processes, log)
    return launch([*arguments, "--out", str(out)], log=log, processes=processes)


def as_options(config: Path | None, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Settings as options of a command."""
    named = ("--config", str(config)) if config else ()
    return (*named, *(word for override in overrides for word in ("--set", override)))
