"""The Hilbert curve, against a plain loop and against what makes it one."""

import numpy as np

from muse_core.nuclei_dataset.curve import MAX_LEVEL0_PX, STEPS_PER_PX, nucleus_ids, snapped


def plain_place(x, y, side):
    """One point in plain integers, quadrant by quadrant: the textbook's own loop."""
    place, size = 0, side // 2
    while size:
        right, low = int(x & size > 0), int(y & size > 0)
        place += size * size * ((3 * right) ^ low)
        if low == 0:
            if right == 1:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        size //= 2
    return place


def test_equals_the_plain_loop():
    xy = np.random.default_rng(0).uniform(0, MAX_LEVEL0_PX - 1, (200, 2))
    steps = np.round(xy * STEPS_PER_PX).astype(int).tolist()
    expected = [plain_place(x, y, MAX_LEVEL0_PX * STEPS_PER_PX) for x, y in steps]
    assert nucleus_ids(xy).tolist() == expected


def test_the_curve_walks_through_every_step_of_a_square_to_a_neighbour():
    columns, rows = np.meshgrid(np.arange(64), np.arange(64))
    xy = np.stack([columns.ravel(), rows.ravel()], axis=1) / STEPS_PER_PX
    ids = nucleus_ids(xy)
    assert sorted(ids.tolist()) == list(range(64 * 64))
    walked = xy[np.argsort(ids)] * STEPS_PER_PX
    assert (np.abs(np.diff(walked, axis=0)).sum(axis=1) == 1).all()


def test_ids_are_equal_within_a_step_and_only_there():
    base = np.array([[1000.0, 2000.0]])
    assert nucleus_ids(base) == nucleus_ids(base + 0.4 / STEPS_PER_PX)
    assert nucleus_ids(base) != nucleus_ids(base + np.array([1 / STEPS_PER_PX, 0]))


def test_points_beyond_the_square_are_held_at_its_rim():
    assert nucleus_ids(np.array([[-5.0, 0.0]])) == nucleus_ids(np.array([[0.0, 0.0]]))
    far = np.array([[2.0 * MAX_LEVEL0_PX, 3.0]])
    assert nucleus_ids(far) == nucleus_ids(np.array([[MAX_LEVEL0_PX - 1 / STEPS_PER_PX, 3.0]]))


def test_snapped_to_the_nearest_64th():
    assert snapped(np.array([[0.5, 1 / 128 + 0.001]])).tolist() == [[0.5, 1 / 64]]
    assert len(nucleus_ids(np.empty((0, 2)))) == 0
