import pytest
import torch
from torch import nn

from muse_core.pretrain.optimiser import StudentOptimiser, clip_each
from muse_core.pretrain.settings import OptimiserSettings


class Network(nn.Module):
    """An encoder, a frozen layer and a head with prototypes, in names alone."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.encoder = nn.Linear(3, 3)
        self.backbone.decoder = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.nucleus_head = nn.Module()
        self.nucleus_head.last_layer = nn.Linear(3, 4, bias=False)


def prepared(**settings):
    torch.manual_seed(0)
    network = Network()
    optimiser = StudentOptimiser(network, OptimiserSettings(**settings), batch_size=256)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    return network, optimiser


def test_each_tensor_is_clipped_by_its_own_norm_as_dino_does():
    wild, calm, none = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    wild.grad, calm.grad = torch.full((4,), 50.0), torch.full((4,), 0.5)
    clip_each([wild, calm, none], 3.0)
    assert float(wild.grad.norm()) == pytest.approx(3.0)
    assert calm.grad.tolist() == [0.5] * 4  # a norm of all together would have shrunk it a hundredfold
    assert none.grad is None


def test_a_limit_of_zero_is_none():
    wild = nn.Parameter(torch.zeros(4))
    wild.grad = torch.full((4,), 50.0)
    clip_each([wild], 0.0)
    assert wild.grad.tolist() == [50.0] * 4


def test_biases_and_norms_do_not_decay_and_the_encoder_has_its_share():
    _, optimiser = prepared(learning_rate=0.1, encoder_rate=0.5, warmup=0, weight_decay=0.04)
    optimiser.step(0.0)
    found = {}
    for group in optimiser.adamw.param_groups:
        for parameter in group["params"]:
            found[optimiser.names[parameter]] = (group["lr"], round(group["weight_decay"], 9))
    assert found == {
        "backbone.encoder.weight": (0.05, 0.04),
        "backbone.encoder.bias": (0.05, 0.0),
        "backbone.decoder.0.weight": (0.1, 0.04),
        "backbone.decoder.0.bias": (0.1, 0.0),
        "backbone.decoder.1.weight": (0.1, 0.0),
        "backbone.decoder.1.bias": (0.1, 0.0),
        "nucleus_head.last_layer.weight": (0.1, 0.04),
    }


def test_a_step_is_that_of_a_plain_adamw_on_clipped_gradients():
    """AdamW written out for its first step: decay, then the sign of the gradient but for eps."""
    network, optimiser = prepared(learning_rate=0.1, warmup=0, weight_decay=0.04, freeze_last_layer=0, clip=0.7)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    optimiser.step(0.0)
    for name, parameter in network.named_parameters():
        expected = before[name].double()
        if name in gradients:
            gradient = gradients[name].double()
            gradient *= min(1.0, 0.7 / (float(gradient.norm()) + 1e-6))
            expected = expected * (1 - 0.1 * (0.04 if expected.ndim > 1 else 0))
            expected = expected - 0.1 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
        assert parameter.grad is None


def test_prototypes_stand_still_in_their_share_of_the_run():
    network, optimiser = prepared(learning_rate=0.1, warmup=0, freeze_last_layer=0.1)
    prototypes = network.nucleus_head.last_layer.weight
    before = prototypes.detach().clone()
    optimiser.step(0.05)
    assert torch.equal(prototypes, before)
    assert prototypes not in optimiser.adamw.state
    prototypes.grad = torch.ones_like(prototypes)
    optimiser.step(0.1)
    assert not torch.equal(prototypes, before)
