import pytest
import torch

from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.pretrain.assembly import recompute_activations


def passed(backbone):
    """Gradients and running statistics after one pass forward and backward, with the same chances each time."""
    torch.manual_seed(1)
    found = backbone(torch.randn(2, 3, 64, 64))
    (found.map.square().mean() + found.image.square().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    return gradients | dict(backbone.named_buffers())


@pytest.mark.parametrize("preset", ["test_efficientnet", "test_vit", "test_resnet"])
def test_gradients_and_statistics_are_those_of_what_is_kept(preset):
    settings = BackboneSettings(preset=preset, image_px=64, drop_path=0.2)
    plain = build_backbone(settings)
    thrifty = build_backbone(settings)
    thrifty.load_state_dict(plain.state_dict())
    recompute_activations(thrifty)
    one, two = passed(plain), passed(thrifty)
    assert any("running_mean" in name for name in one)
    for name, expected in one.items():
        if expected is not None:
            assert torch.equal(two[name], expected), name
