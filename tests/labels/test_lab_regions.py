"""A lab's dots as regions: where they land, what is known around them, and dots with x and y swapped."""

import logging

import numpy as np
import pytest

from muse_core.errors import DatasetError
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import DOT_REACH_UM, lab_regions
from muse_core.ndc.data import data_of
from muse_core.ndc.settings import FinetuneSettings
from tests.data.make_lab import SLIDE_MPP, box, feature, point, write_csv, write_geojson, write_image, write_slide


def _regions(root, side_px=256):
    return lab_regions(read_lab(root), side_px=side_px)


def _greys(region):
    columns, rows = region.xy.astype(int).T
    return region.image[rows, columns].mean(1)


def test_a_slides_region_comes_with_the_tissue_around_it(tmp_path):
    nuclei = write_slide(tmp_path, "S")
    inside = nuclei[((nuclei > (700, 500)) & (nuclei < (800, 600))).all(1)]
    write_geojson(tmp_path, "S", [*(point(*xy, "N") for xy in inside.tolist()), box(700, 500, 800, 600)])
    (region,), _ = _regions(tmp_path)
    assert region.image.shape == (412, 412, 3)  # 100 px and 256 - 100 on each side
    assert region.annotated.sum() == 100 * 100
    assert region.annotated[156:256, 156:256].all()
    assert np.allclose(region.xy, inside - (700 - 156, 500 - 156), atol=1e-3)
    assert region.is_annotated(region.xy).all()
    assert (_greys(region) < region.image.mean() - 20).all()  # the dots lie on nuclei


def test_at_the_slides_edge_there_is_only_what_exists(tmp_path):
    nuclei = write_slide(tmp_path, "S")
    first = nuclei[0]
    write_geojson(tmp_path, "S", [point(*first, "N"), box(0, 0, first[0] + 20, first[1] + 20)])
    (region,), _ = _regions(tmp_path, side_px=1024)
    height, width = region.image.shape[:2]
    assert (width, height) == (1024, 1024)
    assert np.allclose(region.xy, first, atol=1e-3)


def test_without_a_region_the_ground_around_dots_is_known_and_that_is_told(tmp_path, caplog):
    nuclei = write_slide(tmp_path, "S")
    write_csv(tmp_path, "S", [(*xy, "N") for xy in nuclei[100:130:10].tolist()])
    with caplog.at_level(logging.WARNING):
        regions, _ = _regions(tmp_path)
    assert "S.svs: no region, so what is no nucleus is known next to its dots alone" in caplog.text
    assert sum(len(region.xy) for region in regions) == 3
    disc = np.pi * (DOT_REACH_UM / SLIDE_MPP) ** 2
    assert sum(region.annotated.sum() for region in regions) == pytest.approx(3 * disc, rel=0.05)
    assert all(region.is_annotated(region.xy).all() for region in regions)


def test_validation_is_what_the_settings_name_else_every_fifth_else_training(tmp_path):
    for index in range(5):
        nuclei = write_image(tmp_path, f"i{index}", seed=index)
        write_csv(tmp_path, f"i{index}", [(*xy, "N") for xy in nuclei[:4].tolist()])
    train, validation = _regions(tmp_path)
    assert ([one.name for one in train], [one.name for one in validation]) == (["i0", "i1", "i2", "i3"], ["i4"])
    (tmp_path / "dataset.toml").write_text('mpp = 0.5\nval = ["i1"]\n')
    train, validation = _regions(tmp_path)
    assert [one.name for one in validation] == ["i1"]
    for index in (3, 4):
        (tmp_path / "labels" / f"i{index}.csv").unlink()
    (tmp_path / "dataset.toml").write_text("mpp = 0.5\n")
    train, validation = _regions(tmp_path)
    assert validation is train
    assert len(train) == 3


@pytest.mark.parametrize("write", [write_image, write_slide])
def test_columns_in_the_order_y_x_are_noticed_by_the_ground_they_lie_on(tmp_path, write):
    nuclei = write(tmp_path, "a", 900, 800)
    dots = nuclei[nuclei.max(1) < 800][::7][:60]  # inside either way round
    write_csv(tmp_path, "a", [(y, x, "N") for x, y in dots.tolist()])
    with pytest.raises(DatasetError, match=r"paler ground than with x and y swapped; .* columns y x\?"):
        _regions(tmp_path)
    write_csv(tmp_path, "a", [(x, y, "N") for x, y in dots.tolist()])
    train, _ = _regions(tmp_path)
    assert sum(len(region.xy) for region in train) == len(dots)


def test_a_polygon_with_a_hole_is_known_where_pixel_centres_lie_in_it(tmp_path):
    write_image(tmp_path, "a")
    square = [[10, 10], [50, 10], [50, 50], [10, 50], [10, 10]]
    hole = [[20.4, 20.4], [30.6, 20.4], [30.6, 30.6], [20.4, 30.6], [20.4, 20.4]]
    region = feature({"type": "Polygon", "coordinates": [square, hole]}, "Region*")
    write_geojson(tmp_path, "a", [point(15, 15, "N"), region])
    (found,), _ = _regions(tmp_path)
    assert found.annotated.sum() == 40 * 40 - 11 * 11  # centres 20.5 to 30.5 lie in the hole
    assert found.annotated[10:50, 10:20].all()
    assert not found.annotated[20:31, 20:31].any()


def test_dots_of_an_image_outside_its_regions_are_left_out_and_nothing_else_is_refused(tmp_path):
    write_image(tmp_path, "a")
    write_geojson(tmp_path, "a", [point(15, 15, "N"), point(90, 15, "N"), box(10, 10, 60, 60)])
    (found,), _ = _regions(tmp_path)
    assert found.xy.tolist() == [[15, 15]]
    assert found.class_ids.tolist() == [0]
    write_geojson(tmp_path, "a", [point(90, 15, "N"), box(10, 10, 60, 60)])
    with pytest.raises(DatasetError, match=r"no dot is left to train on; .* label more in regions"):
        data_of("lab", tmp_path, unlabelled=[], settings=FinetuneSettings())
