"""Local workers as detectors meet them."""

import torch

from muse_core.cluster import open_workers


def test_workers_run_torch_on_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # for this process; workers make their own
    with open_workers(1) as workers:
        assert workers.executor.submit(torch.get_num_threads).result() == 1
