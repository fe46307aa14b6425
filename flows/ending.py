"""How a flow ends where it could not do its work: in one line, without a traceback for a user's mistake."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.webhook import tell_webhook
from muse_core.errors import MuseError
from muse_core.machine.process import own_process

# A run whose process died is started again by an automation of `muse deploy`; what kills it each time ends here.
MOST_STARTS = 5

P = ParamSpec("P")
R = TypeVar("R")


def ends_in_one_line(body: Callable[P, R]) -> Callable[P, R | State[object]]:
    """A flow's body that ends as Failed with the one line of a `MuseError`, and as Skipped where its folder is held.

    The process it runs in is set up for it, and a webhook told of its end.

    One run a folder is what the folder's lock sees to: it dies with its process, where a limit on the server would hold
    up the next run until its lease ends, and would end a run when the server is started again.
    """

    def ended(*args: P.args, **kwargs: P.kwargs) -> R | State[object]:
        starts = int(flow_run.run_count or 0)
        if starts > MOST_STARTS:
            return Failed(name="GivenUp", message=f"died {starts - 1} times; read the worker's log, then start it anew")
        if starts > 1:
            get_run_logger().info("taken up again, start %d", starts)
        try:
            return body(*args, **kwargs)
        except MuseError as error:
            if error.reason == "output_locked":
                return Cancelled(name="Skipped", message=str(error))
            return Failed(name=error.reason, message=str(error))

    @wraps(body)
    def flow_body(*args: P.args, **kwargs: P.kwargs) -> R | State[object]:
        own_process()
        result = ended(*args, **kwargs)
        tell_webhook(result)
        return result

    return flow_body


def never(task: object, run: object, state: State[object]) -> bool:
    """For `retry_condition_fn`: without one, Prefect logs a traceback of nothing for a failure that is returned."""
    return False
