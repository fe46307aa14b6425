import numpy as np
import pytest

from muse_core.geometry import Box
from muse_core.infer.seams import place_in_core, settle_seams
from muse_core.nuclei_dataset import NucleusPoints


def seam(*rows: tuple[float, float, float, int, bool]) -> NucleusPoints:
    """Rows of x, y, score, tile, owned."""
    values = np.array(rows, float).reshape(-1, 5)
    one = np.ones((len(values), 1), np.float32)
    xy, score, tile = values[:, :2], values[:, 2].astype(np.float32), values[:, 3].astype(int)
    return NucleusPoints(xy, np.zeros(len(xy), int), score, one, one[:, 0] > 0, tile=tile, owned=values[:, 4] > 0)


def settled(points: NucleusPoints, distance: float) -> list[bool]:
    return settle_seams(points, points.xy_level0, distance).tolist()


def test_a_core_owns_its_left_and_top_edge_alone():
    xy = np.array([[10, 20], [110, 20], [10, 120], [60, 70], [109.999, 119.999]])
    owned, at_border = place_in_core(xy, Box(10, 20, 100, 100), 2.0)
    assert owned.tolist() == [True, False, False, True, True]
    assert at_border.tolist() == [True, True, True, False, True]


def test_the_band_reaches_both_sides_of_the_border():
    xy = np.array([[7.9, 70], [8.1, 70], [11.9, 70], [12.1, 70]])
    _, at_border = place_in_core(xy, Box(10, 20, 100, 100), 2.0)
    assert at_border.tolist() == [False, True, True, False]


CASES = {
    "one tile owns it, the other saw it across": ([(1, 0, 0.9, 0, True), (1.1, 0, 0.9, 1, False)], [True, False]),
    "both own it": ([(1, 0, 0.8, 0, True), (1.1, 0, 0.9, 1, True)], [False, True]),
    "both own it, equally sure": ([(1, 0, 0.9, 5, True), (1.1, 0, 0.9, 2, True)], [False, True]),
    "neither owns it": ([(1, 0, 0.8, 0, False), (1.1, 0, 0.9, 1, False)], [False, True]),
    "the owner does not see it": ([(1, 0, 0.9, 0, False)], [False]),
    "the neighbour does not see it": ([(1, 0, 0.9, 0, True)], [True]),
    "two nuclei of one tile": ([(1, 0, 0.9, 0, True), (1.1, 0, 0.9, 0, True)], [True, True]),
    "two nuclei far enough apart": ([(1, 0, 0.9, 0, True), (2.1, 0, 0.9, 1, True)], [True, True]),
    "a corner of four tiles": (
        [(0, 0, 0.9, 0, True), (0.1, 0, 0.9, 1, True), (0, 0.1, 0.9, 2, False), (0.1, 0.1, 0.9, 3, False)],
        [True, False, False, False],
    ),
    "a surer stranger yields to the owner": ([(1, 0, 0.5, 0, True), (1.1, 0, 0.9, 1, False)], [True, False]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("turn", [1, -1])
def test_each_nucleus_stays_once(case, turn):
    rows, expected = CASES[case]
    assert settled(seam(*rows[::turn]), 1.0) == expected[::turn]


def test_nothing_to_settle():
    assert settled(seam(), 1.0) == []


def test_jitter_at_a_border_neither_doubles_nor_loses_nuclei():
    """Two tiles share the border x = 0; each sees every nucleus near it, up to 0.2 µm off."""
    rng = np.random.default_rng(0)
    true = np.column_stack([rng.uniform(-0.9, 0.9, 400), np.arange(400) * 5.0])
    rows = []
    for tile, core in enumerate((Box(-100, -10, 100, 3000), Box(0, -10, 100, 3000))):
        seen = true + rng.uniform(-0.2, 0.2, true.shape)
        owned, at_border = place_in_core(seen, core, 1.0)
        assert at_border.sum() > 350
        for (x, y), mine, near in zip(seen, owned, at_border, strict=True):
            if near:
                rows.append((x, y, 0.9, tile, bool(mine)))
    points = seam(*rows)
    kept = points.xy_level0[settled(points, 1.0)]
    nearest = np.abs(kept[:, None, 1] - true[None, :, 1]).argmin(axis=1)
    deep = np.abs(true[:, 0]) < 0.75  # nearer to the band's end jitter decides whether the core or the band holds them
    counts = np.bincount(nearest, minlength=400)
    assert (counts[deep] == 1).all()
