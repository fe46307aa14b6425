"""Fused or not, the answers are the same; where fusing is not to be had the network stays as it was."""

import copy

import pytest
import torch
from torch import nn

from muse_core.models import fused_activation
from muse_core.models.fused_activation import ConvolutionActivation, _works, fuse_activations


def _net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU6(inplace=True),
        nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False),
        nn.Identity(),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 4, 1),
    ).requires_grad_(False)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_fused_network_answers_the_same(dtype, tolerance):
    if not _works(dtype):
        pytest.skip(f"this processor's oneDNN fuses no {dtype}")
    net = _net().to(dtype=dtype, memory_format=torch.channels_last)
    net[0].weight.mul_(20)  # so that ReLU6 has something to cut
    fused = copy.deepcopy(net)
    fuse_activations(fused)
    assert [type(layer) for layer in fused[:5]].count(ConvolutionActivation) == 2
    images = torch.randn(1, 3, 40, 56).to(dtype=dtype, memory_format=torch.channels_last)
    expected, found = net(images), fused(images)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_without_the_operator_nothing_changes(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(fused_activation, "_convolution_activation", missing)
    net = _net()
    fuse_activations(net)
    assert not [layer for layer in net if isinstance(layer, ConvolutionActivation)]
