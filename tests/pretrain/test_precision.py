import socket

import pytest
import torch
from torch import multiprocessing

from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.pretrain import precision
from muse_core.pretrain.precision import resolved_precision
from muse_core.pretrain.processes import Processes, joined_processes

CPU = Processes(0, 1, torch.device("cpu"))
GPU = Processes(0, 1, torch.device("cuda"))


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(BackboneSettings(preset="test_efficientnet")).train()


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken(backbone, wanted):
    assert resolved_precision(wanted, backbone, CPU) == wanted


@pytest.mark.parametrize(("bf16_s", "chosen"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_on_a_cpu_bf16_must_pay(backbone, monkeypatch, bf16_s, chosen):
    monkeypatch.setattr(precision, "_seconds", lambda backbone, *, bf16: bf16_s if bf16 else 1.0)
    assert resolved_precision("auto", backbone, CPU) == chosen
    assert resolved_precision("auto", backbone, GPU) == "bf16"


def decide(rank, port, out):
    """What one of two processes takes; in the second, bfloat16 looks twice as fast."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2), ("MASTER_PORT", port)):
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setattr(precision, "_seconds", lambda backbone, *, bf16: 0.5 if bf16 and rank else 1.0)
        net = build_backbone(BackboneSettings(preset="test_efficientnet"))
        with joined_processes("cpu") as processes:
            (out / str(rank)).write_text(resolved_precision("auto", net, processes))


@pytest.mark.slow
def test_all_processes_do_as_the_first_found(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(decide, (port, tmp_path), nprocs=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["fp32", "fp32"]


def test_the_trial_leaves_no_trace(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    assert resolved_precision("auto", backbone, CPU) in ("fp32", "bf16")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert backbone.training
    assert all(parameter.grad is None for parameter in backbone.parameters())
