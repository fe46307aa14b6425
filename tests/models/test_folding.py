import copy

import pytest
import torch

from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.models.folding import fold_norms, made_to_run
from muse_core.models.fused_activation import ConvolutionActivation
from tests.models.test_backbone import scrambled


@pytest.mark.parametrize("preset", ["nano", "resnet18", "test_vit"])
def test_a_backbone_without_norms_answers_the_same(preset):
    torch.manual_seed(0)
    backbone = scrambled(build_backbone(BackboneSettings(preset=preset)))
    folded = fold_norms(copy.deepcopy(backbone))
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected, found = backbone(images), folded(images)
    torch.testing.assert_close(found.map, expected.map, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.image, expected.image, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("preset", ["nano", "resnet18", "resnet50", "test_vit", "densenet121", "mobilenetv3_small_050"])
def test_a_backbone_made_to_run_answers_the_same(preset):
    torch.manual_seed(0)
    backbone = scrambled(build_backbone(BackboneSettings(preset=preset)))
    fast = made_to_run(copy.deepcopy(backbone), device="cpu", dtype=torch.float32)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected, found = backbone(images), fast(images)
    torch.testing.assert_close(found.map, expected.map, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.image, expected.image, rtol=1e-3, atol=1e-3)
    if preset == "nano":
        assert len([module for module in fast.modules() if isinstance(module, ConvolutionActivation)]) > 25
