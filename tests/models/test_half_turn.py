"""A network by half a turn answers as it did, padding and all."""

import copy

import pytest
import timm
import torch
from torch import nn

from muse_core.models.backbone import BackboneSettings
from muse_core.models.half_turn import by_half_a_turn, pads_after, turn_kernels
from muse_core.ndc.checkpoint import build_net
from muse_core.ndc.head import NdcHead


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (224, 160)])
def test_the_turned_image_gives_the_turned_answer(size):
    torch.manual_seed(0)
    net = build_net(BackboneSettings(preset="nano"), NdcHead(("a", "b"))).eval()
    assert pads_after(net)
    turned = copy.deepcopy(net)
    turn_kernels(turned.backbone)
    turn_kernels(turned.h_dense)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected, found = net.backbone(images).map, turned.backbone(by_half_a_turn(images)).map
        torch.testing.assert_close(by_half_a_turn(found), expected, rtol=1e-3, atol=1e-4)
        dense = by_half_a_turn(turned.h_dense(found))
        torch.testing.assert_close(dense, net.h_dense(expected), rtol=1e-3, atol=1e-4)


def test_upright_kernels_would_not_do():
    net = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    turned = copy.deepcopy(net)
    turn_kernels(turned)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(turned(images)[1], net(images)[1], atol=1e-3)


def test_networks_that_pad_evenly_have_nothing_to_gain():
    assert not pads_after(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1)))
