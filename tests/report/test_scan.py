"""One pass over a slide, against plain counts."""

import numpy as np
import pytest

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.scan import BINS, grid_shape, scan_slide
from muse_core.report.settings import ReportSettings
from muse_core.report.view import View
from tests.data.make_nuclei import MPP, write_slide

VIEW = View(Box(0, 0, 8000 * MPP[0], 8000 * MPP[1]), None, MPP)
SETTINGS = ReportSettings(map_cell_um=100, typical=5, doubtful=7)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    out = tmp_path_factory.mktemp("nuclei")
    return write_slide(out, 20_000), NucleiDataset(out)


@pytest.fixture(scope="module")
def scan(slide):
    return scan_slide(slide[1], "S1", VIEW, SETTINGS)


def test_counts_and_histograms(slide, scan):
    whole, _ = slide
    for class_id in range(3):
        of_class = whole.class_ids == class_id
        assert scan.counts[class_id] == of_class.sum()
        assert scan.in_tissue[class_id] == (of_class & whole.in_tissue).sum()
        assert scan.score_sums[class_id] == pytest.approx(whole.score[of_class].sum(), rel=1e-5)
        plain, _ = np.histogram(whole.score[of_class], BINS, (0, 1))
        np.testing.assert_array_equal(scan.scores[class_id], plain)
        plain, _ = np.histogram(whole.probabilities[of_class, class_id], BINS, (0, 1))
        np.testing.assert_array_equal(scan.chances[class_id], plain)


def test_the_grid_counts_nuclei_in_tissue(slide, scan):
    whole, _ = slide
    rows, columns = grid_shape(VIEW.box_um, SETTINGS)
    assert (rows, columns) == (21, 20)
    x, y = (whole.xy_level0[(whole.class_ids == 1) & whole.in_tissue] * MPP).T
    limits = [[0, VIEW.box_um.height], [0, VIEW.box_um.width]]
    plain, _, _ = np.histogram2d(y, x, (rows, columns), limits)
    assert np.abs(scan.grid[1] - plain).sum() <= 4  # positions were rounded to 1/64 px


def test_maps_of_large_slides_have_larger_cells():
    assert grid_shape(Box(0, 0, 60_000, 30_000), ReportSettings(max_map_cells=240)) == (120, 240)


def test_typical_are_sure_and_doubtful_are_not(slide, scan):
    whole, _ = slide
    ordered = np.sort(whole.probabilities, axis=1)
    sure = whole.score * (ordered[:, 2] - ordered[:, 1])
    for class_id, typical in enumerate(scan.typical):
        assert len(typical) == 5
        least = np.sort(sure[whole.class_ids == class_id])[-40]  # among the best twenty, give or take two digits
        for one in typical:
            assert one.class_id == class_id == int(np.argmax(one.chances))
            best, second = sorted(one.chances, reverse=True)[:2]
            assert one.score * (best - second) >= least - 0.02
    assert len(scan.doubtful) == 7
    for one in scan.doubtful:
        best, second = sorted(one.chances, reverse=True)[:2]
        assert one.score * (best - second) < 0.02
    assert len({one.nucleus_id for one in scan.doubtful}) == 7


def test_pictures_are_spread_over_the_slide(scan):
    xy = np.array([(one.x_level0, one.y_level0) for one in scan.doubtful])
    assert np.ptp(xy, axis=0).min() > 3000


def test_the_choice_is_the_same_each_time(slide, scan):
    again = scan_slide(slide[1], "S1", VIEW, SETTINGS)
    assert again.typical == scan.typical
    assert again.doubtful == scan.doubtful


def test_one_class_and_no_pictures(tmp_path):
    write_slide(tmp_path, 50, class_names=("nucleus",))
    settings = ReportSettings(typical=0, doubtful=3)
    scan = scan_slide(NucleiDataset(tmp_path), "S1", VIEW, settings)
    assert scan.counts.tolist() == [50]
    assert scan.typical == [[]]
    assert len(scan.doubtful) == 3
