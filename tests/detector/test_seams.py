"""Where tiles begin must not show: one slide, its grid of tiles shifted, the same points."""

import itertools
import math

import numpy as np
import pytest
from scipy.spatial import KDTree

from muse_core.detector.learned import LearnedDetector
from muse_core.geometry import inside
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.slide import open_slide
from muse_core.slide.drawn import draw_slide

MOST_DIFFERENT = 0.001  # of all points
SAME_UM = 1.0  # points nearer than this are one


@pytest.fixture(scope="module")
def detector() -> LearnedDetector:
    return LearnedDetector()


def points_of(slide, detector, *, side_px: int, shift_px: tuple[int, int]) -> np.ndarray:
    """A slide's points, (N, 2) µm, by tiles that own `side_px` at about 0.5 µm/px and whose grid starts at -shift.

    What is read for a tile starts on the detector's own grid, at least its margin before what the tile owns.
    """
    info, grid_px = slide.info, round(detector.grid_um / NETWORK_MPP)
    to_level0 = round(NETWORK_MPP / info.mpp.x)  # whole px are averaged, so that none depends on where its tile starts
    mpp = info.mpp.x * to_level0
    margin = math.ceil(detector.margin_um / mpp)
    size = (math.ceil(info.width_level0 / to_level0), math.ceil(info.height_level0 / to_level0))
    found = []
    for left, top in itertools.product(
        *(range(-shift, length, side_px) for shift, length in zip(shift_px, size, strict=True))
    ):
        start = np.floor((np.array([left, top]) - margin) / grid_px) * grid_px
        side = side_px + 2 * margin + grid_px
        rgb = slide.read_region(*(start * to_level0), side, side, mpp=mpp)
        xy = detector(rgb, mpp)[:, :2] + start
        found.append(xy[inside(xy - (left, top), side_px, side_px)])
    xy = np.concatenate(found)
    return xy[inside(xy, *size)] * mpp


def share_different(one: np.ndarray, two: np.ndarray) -> float:
    """The symmetric difference of two sets of points as a share of their union."""
    lone = (KDTree(two).query(one)[0] > SAME_UM).sum() + (KDTree(one).query(two)[0] > SAME_UM).sum()
    return float(lone) / (len(one) + len(two) - len(one) / 2 - len(two) / 2 + lone / 2)


def check(path, detector, *, side_px: int, shifts: tuple[tuple[int, int], ...]) -> None:
    with open_slide(path) as slide:
        first = points_of(slide, detector, side_px=side_px, shift_px=(0, 0))
        assert len(first) > 300, "a slide with enough to compare"
        for shift in shifts:
            other = points_of(slide, detector, side_px=side_px, shift_px=shift)
            assert share_different(first, other) <= MOST_DIFFERENT, shift
            assert abs(len(first) - len(other)) <= math.ceil(MOST_DIFFERENT * len(first)), shift


def test_a_difference_is_seen():
    one = np.array([[0.0, 0], [10, 0], [20, 0], [30, 0]])
    assert share_different(one, one + 0.5) == 0
    assert share_different(one, one[:3]) == pytest.approx(1 / 4)
    assert share_different(one[1:], one[:3]) == pytest.approx(2 / 4)


@pytest.mark.slow
def test_a_shifted_grid_gives_the_same_points(detector, tmp_path):
    draw_slide(tmp_path / "s.svs", 3200, 3000)
    check(tmp_path / "s.svs", detector, side_px=601, shifts=((333, 177),))


@pytest.mark.slow
def test_a_shifted_grid_gives_the_same_points_on_a_larger_slide(detector, tmp_path):
    draw_slide(tmp_path / "s.svs", 9000, 8000)
    check(tmp_path / "s.svs", detector, side_px=1499, shifts=((1, 1), (333, 1177), (801, 95)))


@pytest.mark.slow
@pytest.mark.slides
def test_a_shifted_grid_gives_the_same_points_on_a_real_slide(detector, shared):
    path = shared / "data" / "slides" / "good" / "CMU-1-Small-Region.svs"
    check(path, detector, side_px=701, shifts=((333, 177), (5, 699)))
