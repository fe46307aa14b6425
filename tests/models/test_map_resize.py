import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from muse_core.models.map_resize import moved, resized


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).expand(1, 1, 3, len(values))


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        ("corners", [0, 0.8, 1.6, 2.4, 3.2, 4]),
        ("half_pixel", [0, 0.5, 1.5, 2.5, 3.5, 4]),
        ("even", [0, 1, 2, 3, 4, 4]),
    ],
)
def test_twice_as_fine(alignment, expected):
    torch.testing.assert_close(
        resized(row(0, 2, 4), (6, 6), alignment=alignment)[0, 0, 0], torch.tensor(expected).float()
    )


@pytest.mark.parametrize("alignment", ["corners", "half_pixel", "even"])
def test_a_map_of_the_size_comes_back_itself(alignment):
    x = row(0, 2, 4)
    assert resized(x, (3, 3), alignment=alignment) is x


def test_a_map_moved_by_a_share_of_a_pixel():
    x = torch.tensor([[0.0, 2, 4], [8, 10, 12]]).expand(1, 1, 2, 3)
    expected = torch.tensor([[2.5, 4.5, 6], [8.5, 10.5, 12]])
    torch.testing.assert_close(moved(x, 0.25)[0, 0], expected)


@pytest.mark.parametrize("side_px", [96, 208, 272])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_even_maps_lie_on_one_another_whatever_the_side(side_px, stride):
    """208 px have 7 pixels at stride 32, padded from 6.5: an eighth of the 52 at stride 4, rounded up."""
    coarse = torch.arange(-(-side_px // stride)).float() * stride
    fine = resized(coarse.expand(1, 1, len(coarse), len(coarse)), (side_px // 4, side_px // 4), alignment="even")
    expected = (torch.arange(side_px // 4) * 4.0).clamp(max=float(coarse[-1]))
    torch.testing.assert_close(fine[0, 0, 0], expected)


@pytest.mark.parametrize("side_px", [96, 224, 512, 1024])
@pytest.mark.parametrize("factor", [8, 4, 2, 0.5])
def test_by_size_is_by_factor_where_the_released_models_work(side_px, factor):
    tokens = side_px // 32 if factor > 1 else side_px // 16
    x = torch.randn(1, 2, tokens, tokens, generator=torch.Generator().manual_seed(0))
    by_factor = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
    assert torch.equal(resized(x, tuple(by_factor.shape[-2:]), alignment="corners"), by_factor)
