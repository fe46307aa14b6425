import numpy as np
import pytest

from muse_core.infer.partition import CellBox, WindowCost, partition

COST = WindowCost(cell_px=64, margin_px=128, step_px=64, most_px=1280)  # rectangles of 16 cells squared


def ellipse(rows: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns] + 0.5
    return ((x / columns - 0.5) ** 2 + (y / rows - 0.5) ** 2) < 0.25


def test_costs_by_hand():
    one, none, long, two = np.array(1), np.array(0), np.array(17), np.array(40)
    assert COST.most_cells == 16
    assert COST.of(one, one) == (64 + 256) ** 2
    assert COST.of(none, one) == 0
    assert COST.of(long, one) == (17 * 64 + 256) * (64 + 256), "a long window that has fewer px than a square one"
    # 40 cells are more than twice as long as a square; they take three windows, of 14 cells the longest one.
    assert COST.of(two, one) == 3 * (14 * 64 + 256) * (64 + 256)
    assert WindowCost(64, 128, 64, 1280, extra_px=1000).of(long, long) == (2 * 832) ** 2 + 4 * 1000


def test_windows_have_no_more_pixels_than_a_square_one_and_are_at_most_twice_as_long():
    cells = np.arange(1, 40)
    fits = COST.fits(cells[:, None], cells[None, :])
    sides = cells * 64 + 256
    assert (np.outer(sides, sides)[fits] <= 1280**2).all()
    assert fits[15, 15]
    assert not fits[16, 16]
    assert fits[35, 0]
    assert not fits[36, 0], "2624 px are more than twice 1280"


def test_a_block_that_fits_stays_whole():
    area = np.zeros((30, 30), bool)
    area[5:12, 9:20] = True
    assert partition(area, COST) == [CellBox(5, 9, 12, 20)]


def test_two_far_blocks_are_looked_at_alone_and_two_near_ones_together():
    area = np.zeros((4, 16), bool)
    area[:2, :2] = area[:2, 12:14] = True
    assert partition(area, COST) == [CellBox(0, 0, 2, 2), CellBox(0, 12, 2, 14)]
    area[:, :] = False
    area[:2, :2] = area[:2, 4:6] = True
    assert partition(area, COST) == [CellBox(0, 0, 2, 6)], "their margins meet"


def test_a_large_block_is_cut_evenly():
    boxes = partition(np.ones((30, 30), bool), COST)
    assert {(box.bottom - box.top, box.right - box.left) for box in boxes} == {(15, 15)}
    assert len(boxes) == 4


@pytest.mark.parametrize("seed", range(3))
def test_every_cell_of_the_area_has_one_rectangle(seed):
    area = np.random.default_rng(seed).random((70, 50)) < (0.02, 0.3, 0.9)[seed]
    held = np.zeros(area.shape, int)
    for box in partition(area, COST):
        assert COST.fits(np.array(box.bottom - box.top), np.array(box.right - box.left))
        held[box.top : box.bottom, box.left : box.right] += 1
    assert held.max() == 1
    assert (held[area] == 1).all()


def test_no_area_no_rectangle():
    assert partition(np.zeros((5, 7), bool), COST) == []


def test_a_round_area_is_followed_better_than_by_a_lattice():
    area, cost = ellipse(120, 120), WindowCost(64, 160, 64, 3072)
    sides = [np.array([box.bottom - box.top, box.right - box.left]) for box in partition(area, cost)]
    seen = sum(int(cost.side_px(side).prod()) for side in sides)
    lattice = 9 * (40 * 64 + 320) ** 2  # cores of 40 cells, all of which the ellipse meets
    assert seen < 0.93 * lattice
