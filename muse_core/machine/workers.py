"""Where CPU work runs: a local Dask cluster sized to this machine, any Dask scheduler, or this process."""

import logging
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm import get_address_host_port

from muse_core.errors import ConfigError, MuseError, WorkersLostError
from muse_core.machine.limits import cpu_count, memory_limit_bytes
from muse_core.machine.process import OwnProcess

CONNECT_TIMEOUT_S = 10
_NO_PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


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
    if scheduler:
        with _quiet_dask(), _connect(scheduler) as client:
            yield _dask_workers(client, f"Dask scheduler {scheduler}")
    elif count == 0:
        executor = ThreadPoolExecutor(1)
        try:
            yield Workers(executor, lambda: 1, own_peak_rss_bytes, "this process")
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    else:
        with _quiet_dask(), _local_cluster(count) as cluster, Client(cluster, set_as_default=False) as client:
            yield _dask_workers(client, f"{len(cluster.workers)} local Dask workers")


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


class WorkerError(Exception):
    """Work that crashed on a worker: what it said, and its traceback there."""

    def __init__(self, message: str, traceback_text: str) -> None:
        super().__init__(message, traceback_text)
        self.message = message
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return self.message


def own_peak_rss_bytes() -> int:
    """Peak resident memory of the calling process since it started."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """A cluster's comings and goings are no news, and what matters of them comes back as an error."""
    # Dask gives its client a level of its own; its event loop tells of what was cut off when a run is interrupted.
    names = ("distributed", "distributed.client", "tornado.application", "asyncio")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _connect(scheduler: str) -> Client:
    try:
        host, port = get_address_host_port(scheduler, strict=True)
        # Asked before Dask is: its client tries for long and complains in many lines.
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
        return Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--dask-scheduler {scheduler}: no Dask scheduler answers ({error}); start one with `dask scheduler` and "
            "give its address, tcp://host:8786"
        ) from None


def _local_cluster(count: int | None) -> LocalCluster:
    if count is not None and count < 0:
        raise ConfigError(f"--workers {count}: needs 0 (this process) or more")
    n_workers = count or cpu_count()
    # Whoever reaches a scheduler can have code run: certificates of this run's own keep others on the machine out. Its
    # pages, which need none, are not served.
    with _main_module_hidden(), dask.config.set(_NO_PAGES):
        return LocalCluster(
            protocol="tls",
            security=Security.temporary(),
            n_workers=n_workers,
            threads_per_worker=1,  # decoding and encoding scale by process; one slide handle a thread
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None takes port 8787 all the same
            memory_limit=memory_limit_bytes() // n_workers,
            silence_logs=logging.CRITICAL,  # of workers: a heartbeat that the end of a run cuts off is an ERROR to Dask
        )


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's main module into each worker.

    Workers need nothing of it: what is submitted lies in importable modules. Under Prefect it would cost each worker
    150 MB and set up its logging there.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


def _dask_workers(client: Client, description: str) -> Workers:
    # Not pure: the same call may have to be made again after its files were removed.
    executor = client.get_executor(pure=False)
    client.register_plugin(OwnProcess())

    def count() -> int:
        return max(1, sum(client.nthreads().values())) if client.status == "running" else 1

    def peak() -> int:
        peaks: dict[str, int] = client.run(own_peak_rss_bytes, on_error="ignore") if client.status == "running" else {}
        return own_peak_rss_bytes() + sum(peaks.values())

    return Workers(executor, count, peak, description)
