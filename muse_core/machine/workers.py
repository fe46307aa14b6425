"""Where CPU work runs: a local Dask cluster sized to this machine, any Dask scheduler, or this process."""

import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from muse_core.errors import MuseError, WorkersLostError
from muse_core.machine.limits import own_peak_rss_bytes


@dataclass(frozen=True)
class Workers:
    """Something to submit work to, and how much it can hold.

    Attributes:
        executor: takes picklable functions and arguments; its futures are those of concurrent.futures.
        count: how many pieces of work run at once, now.
        peak_rss_bytes: the sum of the peak resident memory of this process and of every live worker.
        description: for the log.
    """

    executor: Executor
    count: Callable[[], int]
    peak_rss_bytes: Callable[[], int]
    description: str


@contextmanager
def open_workers(count: int | None = None, scheduler: str | None = None) -> Iterator[Workers]:
    """Open workers and close them at the end.

    Args:
        count: local worker processes; None for one a usable core (affinity and cgroup quota), 0 for this process alone.
        scheduler: address of a running Dask scheduler; its workers must see the same files. It wins over `count`. With
            `tls://host:8786` the certificates are those of Dask's own configuration (`distributed.comm.tls`).

    Raises:
        ConfigError: the count is negative or no scheduler answers.
    """
    if scheduler is None and count == 0:
        here = ThreadPoolExecutor(1)
        try:
            yield Workers(here, lambda: 1, own_peak_rss_bytes, "this process")
        finally:
            here.shutdown(wait=False, cancel_futures=True)
        return
    from muse_core.machine.dask_workers import n_workers, open_client, peak_rss_bytes  # late: Dask takes a second

    with open_client(count, scheduler) as (client, description):
        # Not pure: the same call may have to be made again after its files were removed.
        executor = client.get_executor(pure=False)
        yield Workers(executor, partial(n_workers, client), partial(peak_rss_bytes, client), description)


def tried(function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401  (any picklable work)
    """On the worker: an error comes back as a value, so that Dask does not log it on the worker as well."""
    try:
        return function(*arguments)
    except MuseError as error:
        return error
    except Exception as error:
        # Whoever asked decides what it means; its class may not be importable there, so it travels as text.
        return WorkerError(f"{type(error).__name__}: {error}", traceback.format_exc())


def value_of(future: Future[Any]) -> Any:  # noqa: ANN401
    """What `tried` gave, its error raised here.

    Raises:
        MuseError: as the work raised it.
        WorkersLostError: nobody is left to do the work.
        WorkerError: the work crashed.
    """
    try:
        outcome = future.result()
    except CancelledError:
        raise WorkersLostError("the run was ended, or its Dask scheduler; run the same command again") from None
    if isinstance(outcome, MuseError | WorkerError):
        raise outcome
    return outcome


def worker_was_killed(error: Exception) -> bool:
    """Whether Dask gave a piece of work up because worker after worker died over it."""
    dask = sys.modules.get("distributed")  # where it is not imported, there are no such workers
    return dask is not None and isinstance(error, dask.KilledWorker)


class WorkerError(Exception):
    """Work that crashed on a worker: what it said, and its traceback there."""

    def __init__(self, message: str, traceback_text: str) -> None:
        super().__init__(message, traceback_text)
        self.message = message
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return self.message
