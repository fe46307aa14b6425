"""The tensor way gives the pixels of the array way, on whichever device."""

import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.geometry import frame_at
from muse_core.slide import open_slide
from muse_core.slide.info import Level
from muse_core.slide.resample import grid_for, resample, window_for
from tests.data.make_slides import Drawing, dots_image, draw_aperio, draw_tiff, tissue_image

torch = pytest.importorskip("torch")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def tissue_svs(tmp_path_factory):
    return draw_aperio(tmp_path_factory.mktemp("slides") / "tissue.svs", tissue_image(1300, 1100, seed=5)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.2532, 0.4, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("corner", [(300, 200), (300.4, 200.75), (-20, 1000)])
def test_tensors_hold_what_arrays_hold(tissue_svs, device, mpp, corner):
    with open_slide(tissue_svs, device=device) as slide:
        tensor = slide.read_region_tensor(*corner, 160, 120, mpp=mpp)
        array = slide.read_region(*corner, 160, 120, mpp=mpp)
    assert tensor.device.type == device
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, (120, 160, 3))
    difference = np.abs(tensor.cpu().numpy().astype(int) - array)
    assert difference.max() <= 1 if device == "cpu" else difference.mean() < 1.5  # a GPU's JPEG decoder differs too
    if device == "cpu" and mpp in (0.25, 1.0) and isinstance(corner[0], int):
        assert difference.max() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_many_tensors_come_in_order_and_stay_as_they_were(tissue_svs, device):
    corners = [(x, y) for y in range(0, 900, 210) for x in range(0, 1100, 190)]
    with open_slide(tissue_svs, device=device) as slide:
        tensors = list(slide.read_regions_tensor(corners, 96, 96, mpp=0.25))
        assert len(tensors) == len(corners)
        for corner, tensor in zip(corners, tensors, strict=True):
            difference = np.abs(tensor.cpu().numpy().astype(int) - slide.read_region(*corner, 96, 96, mpp=0.25))
            assert difference.mean() < (1e-9 if device == "cpu" else 1.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mpp", [(0.2465, 0.2465), (0.25, 0.5)])
def test_dots_are_found_where_they_were_drawn(tmp_path, device, mpp):
    dot = np.array([[401.3, 377.8]])
    image = dots_image(800, 800, dot, sigma_px=(1.5 / mpp[0], 1.5 / mpp[1]))
    path = draw_tiff(tmp_path / "dot.tif", image, Drawing(mpp=mpp, factors=(1,)))
    with open_slide(path, device=device) as slide:
        for target in (0.25, 0.5):
            frame = frame_at(350.3, 330.6, target, mpp)
            size = (int(100 * mpp[0] / target), int(100 * mpp[1] / target))
            roi = slide.read_region_tensor(350.3, 330.6, *size, mpp=target).cpu().numpy()
            darkness = np.clip(245 - roi.mean(axis=2) - 3, 0, None)
            rows, columns = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
            centre = np.array([[(columns * darkness).sum(), (rows * darkness).sum()]]) / darkness.sum()
            assert np.abs((frame.to_level0(centre) - dot) * mpp).max() < 0.05


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "steps",
    [(0.5, 0.5), (0.8, 0.8), (1.014, 1.02), (1.1, 1.4), (1.6, 1.6), (2.0, 2.0), (2.3, 2.3), (2.6, 3.1), (2.0, 4.0)],
)
@pytest.mark.parametrize("corner", [(20.0, 30.0), (20.4, 30.75)])
def test_both_ways_resample_alike(device, steps, corner):
    from muse_core.slide.tensors import resample_tensor  # torch may be absent

    grid = grid_for([Level(5000, 5000, 1.0, 1.0, 0, 0)], *steps)
    window = window_for(grid, *corner, 120, 100)
    # Noise: the hardest picture, where another filter or rim shows at once.
    source = np.random.default_rng(3).integers(0, 256, (window.height, window.width, 3), dtype=np.uint8)
    tensor = resample_tensor(torch.from_numpy(source).to(device), grid, window, 120, 100).cpu().numpy()
    difference = np.abs(tensor.astype(int) - resample(source, grid, window, 120, 100))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tissue_svs):
    with open_slide(tissue_svs, device="cuda") as slide:
        assert slide.read_region(0, 0, 9, 9, mpp=0.25).shape == (9, 9, 3)
        with pytest.raises(ConfigError, match="torch finds no GPU"):
            slide.read_region_tensor(0, 0, 9, 9, mpp=0.25)
