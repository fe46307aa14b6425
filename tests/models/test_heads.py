import pytest
import torch

from muse_core.models.heads import ProjectionHead, Prototypes


def test_shapes_parameters_and_names():
    head = ProjectionHead(384, 100)
    assert head(torch.randn(5, 384)).shape == (5, 100)
    assert head.n_prototypes == 100
    mlp = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256  # DINO's head
    assert sum(p.numel() for p in head.parameters()) == mlp + 256 * 100
    assert [name for name, _ in head.named_parameters() if "last_layer" in name] == ["last_layer.directions"]


def test_logits_are_cosines():
    head = ProjectionHead(6, 4, hidden=5, bottleneck=3)
    features = torch.randn(7, 6)
    rows = head.mlp(features)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], head.last_layer.directions, dim=2)
    torch.testing.assert_close(head(features), expected)


def test_a_learned_gain_scales_its_prototype():
    layer = Prototypes(3, 2, fixed_gain=False)
    rows = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    before = layer(rows)
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(layer(rows), before * torch.tensor([1.0, 3.0]))


def test_autocast_leaves_the_logits_in_float32():
    head = ProjectionHead(6, 4, hidden=5, bottleneck=3)
    rows = head.bottleneck(torch.randn(7, 6))
    with torch.autocast("cpu", torch.bfloat16):
        found = head.last_layer(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head.last_layer(rows))


@pytest.mark.parametrize("layers", [1, 2])
def test_shallower_heads(layers):
    assert ProjectionHead(6, 4, hidden=5, bottleneck=3, layers=layers)(torch.randn(2, 6)).shape == (2, 4)
