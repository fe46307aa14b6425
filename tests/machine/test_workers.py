"""Local workers as detectors and people meet them."""

import logging

import torch

from muse_core.machine.workers import open_workers


def test_workers_run_torch_on_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # for this process; workers make their own
    with open_workers(1) as workers:
        assert workers.executor.submit(torch.get_num_threads).result() == 1


def test_what_dask_says_on_a_worker_stays_there(capfd):
    """Such as the traceback of a heartbeat that the end of an interrupted run cuts off."""
    with open_workers(1) as workers:
        workers.executor.submit(logging.getLogger("distributed.worker").error, "no scheduler answers").result()
    assert capfd.readouterr().err == ""
