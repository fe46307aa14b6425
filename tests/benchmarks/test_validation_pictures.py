"""Scores against how often they hit, and what becomes of labels, with answers that are known."""

import numpy as np
import pytest

from benchmarks.validation_pictures import reliability, verdict
from muse_core.labels.regions import Region
from muse_core.labels.scores import JudgedPatch


def _judged(xy, score, true_xy) -> JudgedPatch:
    ids = np.zeros(len(xy), np.int64)
    return JudgedPatch(
        "p", 0.5, np.array(true_xy, float), np.zeros(len(true_xy), np.int64), np.array(xy, float), score, ids
    )


def test_a_score_that_tells_the_truth_has_no_error():
    places = np.column_stack([np.arange(100) * 20.0, np.zeros(100)])
    labels = places[:75]  # three quarters of the points are nuclei
    honest = reliability([_judged(places, np.full(100, 0.75), labels)])
    assert honest.points == [0] * 7 + [100, 0, 0]
    assert honest.error == pytest.approx(0)
    assert (honest.said[7], honest.hit[7]) == pytest.approx((0.75, 0.75))
    assert np.isnan(honest.hit[0])
    boastful = reliability([_judged(places, np.full(100, 0.95), labels)])
    assert boastful.error == pytest.approx(0.2)


def test_hits_misses_and_false_points_are_told_apart():
    row = _judged([[10, 10], [100, 100], [200, 200]], np.array([0.9, 0.8, 0.4]), [[12, 10], [200, 200]])
    region = Region("p", "p", np.zeros((300, 300, 3), np.uint8), 0.5, None, row.true_xy, row.true_ids)
    found = verdict(row, region)
    assert found.hits.tolist() == [[10, 10]]
    assert found.false.tolist() == [[100, 100]]
    assert found.missed.tolist() == [[200, 200]]  # the point there is below 0.5
    assert found.f1 == pytest.approx(2 / 4)
