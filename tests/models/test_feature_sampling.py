import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from muse_core.models.feature_sampling import sample_at

WIDTH, HEIGHT = 80, 48  # px of the images; maps have a quarter


def nuclei(n: int, *, margin: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([WIDTH + 2 * margin, HEIGHT + 2 * margin])
    return torch.rand(n, 2, generator=generator) * spread - margin, torch.randint(0, 3, (n,), generator=generator)


def by_grid_sample(feature_map, xy, image_index, *, mode):
    """Each nucleus by a call of its own."""
    grid = 2 * xy / torch.tensor([WIDTH, HEIGHT]) - 1
    rows = [
        F.grid_sample(
            feature_map[image : image + 1],
            point.view(1, 1, 1, 2),
            align_corners=mode == "official",
            padding_mode="border",
        ).flatten()
        for image, point in zip(image_index.tolist(), grid, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["exact", "official"])
def test_features_and_gradients_are_those_of_grid_sample(mode, memory):
    torch.manual_seed(0)
    ours = torch.randn(3, 5, HEIGHT // 4, WIDTH // 4).contiguous(memory_format=memory).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    xy, image_index = nuclei(60, margin=6.0)  # some outside
    weight = torch.randn(60, 5)
    found = sample_at(ours, xy, image_index, side_px=(WIDTH, HEIGHT), mode=mode)
    expected = by_grid_sample(theirs, xy, image_index, mode=mode)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_a_map_of_coordinates_reads_as_the_coordinates():
    y, x = torch.meshgrid(torch.arange(12.0) * 4 + 2, torch.arange(20.0) * 4 + 2, indexing="ij")
    feature_map = torch.stack([x, y])[None]
    xy = torch.tensor([[2.0, 2.0], [10.0, 6.0], [33.3, 17.9], [78.0, 46.0]])
    read = sample_at(feature_map, xy, torch.zeros(4).long(), side_px=(WIDTH, HEIGHT))
    torch.testing.assert_close(read, xy)
    outside = torch.tensor([[-5.0, 0.0], [80.0, 60.0]])
    read = sample_at(feature_map, outside, torch.zeros(2).long(), side_px=(WIDTH, HEIGHT))
    torch.testing.assert_close(read, torch.tensor([[2.0, 2.0], [78.0, 46.0]]))


def test_official_stretches_the_map_to_the_border():
    feature_map = torch.arange(5.0).expand(1, 1, 5, 5)
    xy = torch.tensor([[0.0, 3.0], [10.0, 3.0], [20.0, 3.0]])
    read = sample_at(feature_map, xy, torch.zeros(3).long(), side_px=(20, 20), mode="official")
    assert read.flatten().tolist() == [0.0, 2.0, 4.0]


def test_no_nuclei_at_all():
    feature_map = torch.randn(2, 5, 4, 4, requires_grad=True)
    found = sample_at(feature_map, torch.zeros(0, 2), torch.zeros(0).long(), side_px=(16, 16))
    assert found.shape == (0, 5)
    found.sum().backward()
    assert not feature_map.grad.any()


class LargestFloat(TorchDispatchMode):
    """Remembers the most float32 numbers that any one operation gave."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
            self.numbers = max(self.numbers, out.numel())
        return out


def test_a_bfloat16_map_is_not_copied_to_float32():
    feature_map = torch.randn(3, 8, HEIGHT, WIDTH, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    xy, image_index = nuclei(10)
    with torch.autocast("cpu", torch.bfloat16), LargestFloat() as largest:
        found = sample_at(feature_map, xy, image_index, side_px=(WIDTH, HEIGHT))
    assert found.dtype == torch.bfloat16
    assert largest.numbers <= 4 * 10 * 8
    plain = sample_at(feature_map.float(), xy, image_index, side_px=(WIDTH, HEIGHT))
    assert torch.equal(found, plain.bfloat16())


def test_coordinates_keep_their_precision_under_autocast():
    """In bfloat16, 201.3 px would be 201 or 202."""
    feature_map = (torch.arange(256.0) * 4 + 2).expand(1, 1, 4, 256)
    with torch.autocast("cpu", torch.bfloat16):
        read = sample_at(feature_map, torch.tensor([[201.3, 8.0]]), torch.zeros(1).long(), side_px=(1024, 16))
    assert float(read) == pytest.approx(201.3, abs=1e-3)


@pytest.mark.gpu
def test_a_gpu_reads_the_same():
    feature_map = torch.randn(3, 5, HEIGHT // 4, WIDTH // 4)
    xy, image_index = nuclei(60)
    found = sample_at(feature_map.cuda(), xy.cuda(), image_index.cuda(), side_px=(WIDTH, HEIGHT))
    torch.testing.assert_close(found.cpu(), sample_at(feature_map, xy, image_index, side_px=(WIDTH, HEIGHT)))
