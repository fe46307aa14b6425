"""Density maps of known densities."""

import io

import numpy as np
import pytest
import shapely
from PIL import Image

from muse_core.geometry import Box
from muse_core.report.maps import density_maps, ramp
from muse_core.report.settings import ReportSettings
from muse_core.report.view import View

BLUE = "#0072B2"
SETTINGS = ReportSettings(map_smoothing_um=0)


def painted(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_an_even_density_is_one_colour_even_where_tissue_ends_within_a_cell():
    tissue = shapely.box(0, 0, 750, 1000)
    view = View(Box(0, 0, 1000, 1000), tissue, (0.25, 0.25))
    grid = np.zeros((1, 5, 5), np.float32)  # cells of 0.04 mm²
    grid[0, :, :3], grid[0, :, 3] = 40, 30  # the fourth column is three quarters tissue
    (found,) = density_maps(grid, [BLUE], view, SETTINGS)
    assert found.most_per_mm2 == 1000
    np.testing.assert_array_equal(painted(found.png)[:, :4], np.broadcast_to(ramp(BLUE)[255], (5, 4, 3)))


def test_smoothing_keeps_an_even_density_even():
    view = View(Box(0, 0, 1000, 1000), shapely.box(100, 100, 900, 900), (0.25, 0.25))
    grid = np.zeros((1, 20, 20), np.float32)
    grid[0, 2:18, 2:18] = 5  # 2,000 per mm²
    (found,) = density_maps(grid, [BLUE], view, ReportSettings(map_smoothing_um=120))
    assert found.most_per_mm2 == pytest.approx(2000, rel=0.03)
    inside = painted(found.png)[2:18, 2:18]
    assert np.ptp(inside, axis=(0, 1)).max() <= 2


def test_the_scale_is_of_each_class_and_rounded_up():
    view = View(Box(0, 0, 1000, 1000), None, (0.25, 0.25))
    grid = np.ones((2, 10, 10), np.float32) * np.array([12.34, 0], np.float32)[:, None, None]
    first, second = density_maps(grid, [BLUE, "#D55E00"], view, SETTINGS)
    assert (first.most_per_mm2, second.most_per_mm2) == (1300, 1)
    assert (painted(second.png) == 247).all()


def test_ramps_darken_all_the_way():
    for colour in (BLUE, "#F0E442", "#000000"):
        lightness = ramp(colour).astype(int) @ [299, 587, 114]
        assert (np.diff(lightness) <= 0).all()
        assert lightness[0] - lightness[-1] > 120_000
