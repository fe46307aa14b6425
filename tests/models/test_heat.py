import cv2
import numpy as np
import pytest

from muse_core.models.heat import NO_CLASS, draw_heat, find_peaks


@pytest.mark.parametrize("seed", range(3))
def test_drawn_nuclei_are_found_to_a_fraction_of_a_pixel(seed):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(17, 190, 33), np.arange(17, 190, 33)), axis=-1).reshape(-1, 2)
    xy = grid + rng.uniform(-4, 4, grid.shape)
    heat, _ = draw_heat(xy, np.zeros(len(xy), np.int64), 200, sigma_px=2.5)
    found = find_peaks(heat, min_heat=0.3, min_distance_px=5)
    distance = np.linalg.norm(found[:, None, :2] - xy[None], axis=2)
    assert len(found) == len(xy)
    assert distance.min(axis=1).max() < 0.15
    assert set(distance.argmin(axis=1)) == set(range(len(xy)))


def test_crowded_nuclei_stay_apart():
    xy = np.stack(np.meshgrid(np.arange(20, 180, 11.0), np.arange(20, 180, 11.0)), axis=-1).reshape(-1, 2)
    heat, _ = draw_heat(xy, np.zeros(len(xy), np.int64), 200, sigma_px=2.5)
    found = find_peaks(heat, min_heat=0.3, min_distance_px=6)
    assert len(found) == len(xy)
    # Those at the rim of a crowd are drawn towards it, by a micrometre at most.
    assert np.linalg.norm(found[:, None, :2] - xy[None], axis=2).min(axis=1).max() < 2.2


def test_the_point_of_a_long_bump_is_its_middle_not_its_top():
    heat = np.zeros((40, 40), np.float32)
    heat[20, 15:24] = np.linspace(0.8, 0.7, 9)
    (found,) = find_peaks(cv2.GaussianBlur(heat, (0, 0), 1.0), min_heat=0.2, min_distance_px=6)
    assert 2 * 17.5 < found[0] < 2 * 19.6  # the top is at 16, the middle at 19.5
    assert found[1] == pytest.approx(41, abs=0.1)


def test_heat_is_one_at_the_centre_of_its_pixel_and_classes_stand_around_it():
    heat, classes = draw_heat(np.array([[21.0, 11.0]]), np.array([2]), 40, sigma_px=2.5)
    assert heat[5, 10] == 1.0
    assert heat[5, 11] == pytest.approx(np.exp(-(2**2) / (2 * 2.5**2)))
    assert classes[5, 10] == 2
    assert classes[15, 15] == NO_CLASS


def test_the_nearer_nucleus_gives_the_class():
    _, classes = draw_heat(np.array([[11.0, 11.0], [17.0, 11.0]]), np.array([0, 1]), 40, sigma_px=2.5)
    assert classes[5, 5] == 0
    assert classes[5, 8] == 1


def test_nuclei_outside_the_picture_reach_in_or_are_left_out():
    heat, _ = draw_heat(np.array([[-1.0, 10.0], [500.0, 10.0]]), np.array([0, 0]), 40, sigma_px=2.5)
    assert heat.argmax() == 40 // 2 * 4 or heat.argmax() == 40 // 2 * 5
    assert heat[:, 10:].max() < 1e-3


def test_of_two_near_peaks_the_higher_stays():
    heat = np.zeros((40, 40), np.float32)
    heat[10, 10], heat[10, 14] = 0.9, 1.0
    assert len(find_peaks(heat, min_heat=0.05, min_distance_px=7)) == 2
    (peak,) = find_peaks(heat, min_heat=0.05, min_distance_px=9)
    assert peak[0] > 26  # drawn a little towards the lower one's heat


def test_flat_and_cold_maps_have_no_peak():
    assert find_peaks(np.zeros((8, 8), np.float32), min_heat=0.1, min_distance_px=5).shape == (0, 3)
    assert find_peaks(np.full((1, 1), 0.01, np.float32), min_heat=0.1, min_distance_px=5).shape == (0, 3)
