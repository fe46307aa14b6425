"""Where bars and dots stand."""

import numpy as np
import pytest

from muse_core.report.charts import bars, segments, strips


def test_segments_fill_the_bar():
    found = segments([("a", "#0072B2", 0.25), ("b", "#D55E00", 0.75)])
    assert [(one.left, one.width) for one in found] == [(0, 25), (25, 75)]


def test_the_tallest_bar_is_full():
    assert bars(np.array([0, 5, 10])) == [0, 50, 100]
    assert bars(np.zeros(3, np.int64)) == [0, 0, 0]


@pytest.mark.parametrize(
    ("most", "ticks"), [(3900, [0, 1000, 2000, 3000, 4000]), (0.4, [0, 1]), (17, [0, 5, 10, 15, 20])]
)
def test_axes_have_round_ticks(most, ticks):
    (strip,), axis = strips({"a": [("S1", most), ("S2", 0.0)]}, {"a": "#0072B2"})
    assert [value for _, value in axis] == ticks
    assert axis[-1][0] == 100
    assert strip.dots == [(pytest.approx(100 * most / ticks[-1]), "S1", most), (0, "S2", 0)]
    assert strip.median == pytest.approx(50 * most / ticks[-1])


def test_strips_of_nothing():
    (strip,), axis = strips({"a": []}, {"a": "#0072B2"})
    assert (strip.dots, strip.median, axis[0]) == ([], 0, (0, 0))
