"""Workers of Dask: a local cluster sized to this machine, or any scheduler. Imported only where there are some."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm import get_address_host_port
from distributed.diagnostics.plugin import WorkerPlugin

from muse_core.errors import ConfigError
from muse_core.machine.limits import cpu_count, memory_limit_bytes, own_peak_rss_bytes
from muse_core.machine.process import own_process

CONNECT_TIMEOUT_S = 10
_NO_PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


class OwnProcess(WorkerPlugin):  # type: ignore[misc]  # Dask's are untyped
    """`own_process` on each Dask worker, also on one that is started again."""

    name = "muse-own-process"

    def setup(self, worker: object) -> None:
        """At the worker's start."""
        own_process()


@contextmanager
def open_client(count: int | None, scheduler: str | None) -> Iterator[tuple[Client, str]]:
    """A client of workers that are there while the block runs, and who they are; arguments as of `open_workers`.

    Raises:
        ConfigError: the count is negative or no scheduler answers.
    """
    if scheduler:
        with _quiet_dask(), _connect(scheduler) as client:
            client.register_plugin(OwnProcess())
            yield client, f"Dask scheduler {scheduler}"
    else:
        with _quiet_dask(), _local_cluster(count) as cluster, Client(cluster, set_as_default=False) as client:
            client.register_plugin(OwnProcess())
            yield client, f"{len(cluster.workers)} local Dask workers"


def n_workers(client: Client) -> int:
    """How many pieces of work run at once, now."""
    return max(1, sum(client.nthreads().values())) if client.status == "running" else 1


def peak_rss_bytes(client: Client) -> int:
    """Peak resident memory of this process and of every live worker, summed."""
    peaks: dict[str, int] = client.run(own_peak_rss_bytes, on_error="ignore") if client.status == "running" else {}
    return own_peak_rss_bytes() + sum(peaks.values())


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
