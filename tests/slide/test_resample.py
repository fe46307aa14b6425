"""Level choice and resampling against hand-computed answers."""

import numpy as np
import pytest

from muse_core.images.pixels import to_rgb
from muse_core.slide.info import Level
from muse_core.slide.reader import snap_downsample
from muse_core.slide.resample import Grid, grid_for, resample, window_for

LEVELS = [Level(4000 // d, 4000 // d, float(d), float(d), 256, 256) for d in (1, 4, 16)]


@pytest.mark.parametrize(
    ("scale", "level", "step"),
    [
        (0.5, 0, 0.5),  # finer than the slide: enlarged from level 0
        (1.0, 0, 1.0),
        (1.0000001, 0, 1.0),  # within 1e-6: the same
        (3.9, 0, 3.9),
        (3.997, 1, 3.997 / 4),  # within 1e-3 of the level
        (4.0, 1, 1.0),
        (15.9, 1, 15.9 / 4),
        (100.0, 2, 6.25),
    ],
)
def test_the_coarsest_level_that_is_fine_enough(scale, level, step):
    grid = grid_for(LEVELS, scale, scale)
    assert grid.level == level
    assert (grid.step_x, grid.step_y) == pytest.approx((step, step))


def test_the_finer_axis_decides_the_level():
    assert grid_for(LEVELS, 8.0, 2.0) == Grid(0, 8.0, 2.0)


@pytest.mark.parametrize(
    ("full", "level", "downsample"),
    [
        (4443, 2221, 2.0),  # floor
        (4443, 2222, 2.0),  # ceil
        (10000, 625, 16.0),
        (1000, 251, 1000 / 251),  # no whole factor makes this
        (300, 300, 1.0),
    ],
)
def test_downsamples_are_whole_where_the_lengths_allow(full, level, downsample):
    assert snap_downsample(full, level) == downsample


STEPS = [
    (0.5, 0.5),
    (0.97, 0.97),
    (1.0, 1.0),
    (1.0142, 1.0142),
    (1.5625, 1.5625),
    (2.0, 2.0),
    (2.028, 2.7),
    (1.1, 3.3),
    (5.3, 2.1),
]


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("corner", [(40.0, 30.0), (40.25, 30.5), (41.9, 37.01)], ids=str)
@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
def test_a_wave_keeps_its_place(step, corner, axis):
    grid = Grid(0, *step)
    window = window_for(grid, *corner, 60, 50)
    period = 4 * max(step)
    wave = np.rint(128 + 100 * np.sin((np.arange(500) + 0.5) / period)).astype(np.uint8)
    image = np.broadcast_to(wave[:, np.newaxis] if axis else wave, (500, 500))
    image = np.repeat(image[:, :, np.newaxis], 3, axis=2)
    source = np.ascontiguousarray(image[window.y : window.y + window.height, window.x : window.x + window.width])

    result = resample(source, grid, window, 60, 50)[:, :, 0].astype(float)

    output = (np.arange(60 - 10 * axis) + 0.5) * step[axis] + corner[axis]
    profile = result.mean(axis=axis)
    waves = np.stack([np.sin(output / period), np.cos(output / period), np.ones(output.size)], axis=1)
    (in_phase, in_quadrature, mean), *_ = np.linalg.lstsq(waves, profile, rcond=None)
    assert abs(np.arctan2(in_quadrature, in_phase)) * period < 0.05  # level px
    assert abs(mean - 128) < 0.6  # each averaging of 2 x 2 rounds halves up
    assert 80 < np.hypot(in_phase, in_quadrature) < 101


def test_native_pixels_are_handed_through():
    grid = Grid(0, 1.0, 1.0)
    window = window_for(grid, 7.0, 9.0, 30, 20)
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert (window.x, window.y, window.width, window.height) == (7, 9, 30, 20)
    assert np.shares_memory(resample(source, grid, window, 30, 20), source)


def test_colours_become_rgb():
    grey = np.array([[7, 9]], np.uint8)
    assert to_rgb(grey).tolist() == [[[7, 7, 7], [9, 9, 9]]]
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert to_rgb(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    with pytest.raises(ValueError, match="samples are uint16, 8-bit RGB is needed"):
        to_rgb(np.zeros((2, 2), np.uint16))
    with pytest.raises(ValueError, match="2 channels a pixel"):
        to_rgb(np.zeros((2, 2, 2), np.uint8))
