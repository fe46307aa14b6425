"""What is shown of a slide."""

import re

import pytest
import shapely

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.view import View, view_of
from tests.data.make_nuclei import MPP, write_slide
from tests.report.conftest import write_tissue_file


@pytest.fixture
def dataset(tmp_path):
    write_slide(tmp_path, 500)
    return NucleiDataset(tmp_path)


def test_the_view_is_the_tissue_and_a_rim_in_um(dataset, tmp_path):
    write_tissue_file(tmp_path, "S1", shapely.box(1000, 2000, 5000, 4000))
    view = view_of(dataset, "S1", tmp_path / "tissue" / "S1.geojson")
    rim = 0.04 * 4000 * MPP[0]
    box = view.box_um
    assert (box.x, box.y) == pytest.approx((1000 * MPP[0] - rim, 2000 * MPP[1] - rim))
    assert (box.right, box.bottom) == pytest.approx((5000 * MPP[0] + rim, 4000 * MPP[1] + rim))
    assert view.tissue_um.area == pytest.approx(4000 * 2000 * MPP[0] * MPP[1])


def test_the_view_ends_where_the_slide_does(dataset, tmp_path):
    write_tissue_file(tmp_path, "S1", shapely.box(10, 10, 7990, 6000))
    box = view_of(dataset, "S1", tmp_path / "tissue" / "S1.geojson", (8000, 6100)).box_um
    assert (box.x, box.y, box.right, box.bottom) == pytest.approx((0, 0, 8000 * MPP[0], 6100 * MPP[1]))


def test_without_tissue_the_view_is_where_nuclei_are(dataset, tmp_path):
    view = view_of(dataset, "S1", tmp_path / "nowhere.geojson")
    assert view.tissue_um is None
    assert view.outline == ""
    assert view.box_um.width == pytest.approx(8000 * MPP[0], rel=0.1)


def test_the_outline_is_a_path_with_its_holes():
    ring = shapely.box(0, 0, 100, 100) - shapely.box(40, 40, 60, 60)
    outline = View(Box(0, 0, 100, 100), ring, MPP).outline
    assert outline.count("M") == outline.count("Z") == 2
    assert set(re.findall(r"\d+,\d+", outline)) >= {"0,0", "100,100", "40,40", "60,60"}


@pytest.mark.parametrize(("width", "bar"), [(6000, 1000), (600, 100), (900, 100), (1300, 200), (30000, 5000)])
def test_scale_bars_are_round(width, bar):
    assert View(Box(0, 0, width, 10), None, MPP).scale_bar_um == bar
