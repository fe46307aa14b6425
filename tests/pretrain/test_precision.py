import pytest
import torch

from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.pretrain import precision
from muse_core.pretrain.precision import resolved_precision

CPU = torch.device("cpu")


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
    assert resolved_precision("auto", backbone, torch.device("cuda")) == "bf16"


def test_the_trial_leaves_no_trace(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    assert resolved_precision("auto", backbone, CPU) in ("fp32", "bf16")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert backbone.training
    assert all(parameter.grad is None for parameter in backbone.parameters())
