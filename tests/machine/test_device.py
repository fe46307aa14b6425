"""GPUs shared out among the processes of a machine."""

import pytest

from muse_core.machine import device as module
from muse_core.machine.device import one_gpu


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_named_device_is_that_device(device, tmp_path):
    with one_gpu(device, locks=tmp_path) as given:
        assert given == device
    assert not list(tmp_path.iterdir())


def test_gpus_are_shared_out_and_come_back(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "gpu_count", lambda: 2)
    with one_gpu("cuda", locks=tmp_path) as first, one_gpu("cuda", locks=tmp_path) as second:
        assert (first, second) == ("cuda:0", "cuda:1")
    with one_gpu("cuda", locks=tmp_path) as again:
        assert again == "cuda:0"
