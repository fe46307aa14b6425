"""Matching rules on cases small enough to solve on paper."""

import numpy as np
import pytest

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels.matching import MCSPATNET_NEIGHBOURS, RULES, Counts, Matches, f1, match, mean_f1, pool


def _pairs(pred, score, true, rule, radius=6.0):
    found = match(np.array(pred, float), np.array(score, float), np.array(true, float), radius=radius, rule=rule)
    return [tuple(pair) for pair in found.pairs.tolist()]


# A chain on a line: labels at x = 10 and 15, predictions at 14 (score 0.9) and 19 (score 0.1).
# Prediction 0 is nearest to label 1 (1 px), yet label 0 (4 px) has no other; label 1 also reaches prediction 1 (4 px).
CHAIN = ([(14.0, 5.0), (19.0, 5.0)], [0.9, 0.1], [(10.0, 5.0), (15.0, 5.0)])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mcspatnet", [(0, 0), (1, 1)]),  # label 0 comes first in raster order and takes prediction 0
        ("ocelot", [(0, 1)]),  # prediction 0 takes its nearest label, prediction 1 finds it gone
        ("dpa", [(0, 1)]),
        ("puma", [(0, 0), (1, 1)]),
        ("max-cardinality", [(0, 0), (1, 1)]),
        ("munkres", [(0, 0), (1, 1)]),  # 4 + 4 against 1 + 9
    ],
)
def test_rules_disagree_on_a_chain(rule, expected):
    assert _pairs(*CHAIN, rule) == expected


def test_munkres_spends_a_near_pair_on_a_smaller_total():
    # Total distance: straight 1 + 12.5 = 13.5; crossed 5 + 6.5 = 11.5, of which the 6.5 is then dropped.
    pred, true = [(0.0, 0.0), (7.5, 0.0)], [(1.0, 0.0), (-5.0, 0.0)]
    assert _pairs(pred, [1, 1], true, "munkres") == [(0, 1)]
    assert _pairs(pred, [1, 1], true, "ocelot") == [(0, 0)]


def test_munkres_loses_what_the_greedy_rules_find():
    # Total distance: straight 7 + 7 = 14, both too far; crossed 2 + 16 = 18, one near.
    pred, true = [(0.0, 0.0), (9.0, 0.0)], [(-7.0, 0.0), (2.0, 0.0)]
    assert _pairs(pred, [1, 1], true, "munkres") == []
    assert _pairs(pred, [1, 1], true, "max-cardinality") == [(0, 1)]


def test_puma_prefers_score_to_distance_and_mcspatnet_distance_to_score():
    pred, true = [(1.0, 0.0), (5.0, 0.0)], [(0.0, 0.0)]
    assert _pairs(pred, [0.2, 0.8], true, "puma") == [(1, 0)]
    assert _pairs(pred, [0.2, 0.8], true, "mcspatnet") == [(0, 0)]
    assert _pairs(pred, [0.5, 0.5], true, "puma") == [(0, 0)]  # equal scores: the nearer


def test_label_order_is_raster_for_mcspatnet_and_file_order_for_puma():
    # Label 1 lies higher in the image. One prediction is within reach of both.
    pred, true = [(5.0, 5.0)], [(5.0, 8.0), (5.0, 1.0)]
    assert _pairs(pred, [1], true, "mcspatnet") == [(0, 1)]
    assert _pairs(pred, [1], true, "puma") == [(0, 0)]


def test_raster_order_goes_by_pixel_rows():
    # Both labels lie in pixel row 3; the left one comes first although it lies lower within the row.
    pred, true = [(6.0, 3.5)], [(9.0, 3.1), (4.0, 3.9)]
    assert _pairs(pred, [1], true, "mcspatnet") == [(0, 1)]


@pytest.mark.parametrize(
    ("rule", "counts"),
    [("mcspatnet", 0), ("puma", 0), ("ocelot", 1), ("dpa", 1), ("max-cardinality", 1), ("munkres", 1)],
)
def test_a_point_on_the_rim_counts_where_the_rule_says_so(rule, counts):
    assert len(_pairs([(3.6, 4.8)], [1], [(0.0, 0.0)], rule)) == counts


def test_mcspatnet_looks_no_further_than_its_nearest_fifty():
    # Fifty labels in pixel row 0 each take one of fifty predictions at their place; the label below reaches the same
    # fifty first, and prediction 50 only as its 51st.
    crowd = [(10.0, 0.5)] * MCSPATNET_NEIGHBOURS
    pred, true = [*crowd, (10.0, 5.5)], [*crowd, (10.0, 1.5)]
    assert len(_pairs(pred, [1] * len(pred), true, "mcspatnet")) == MCSPATNET_NEIGHBOURS
    assert len(_pairs(pred, [1] * len(pred), true, "ocelot")) == MCSPATNET_NEIGHBOURS + 1


def test_ocelot_takes_predictions_by_score_not_by_row():
    pred, true = [(0.0, 0.0), (1.0, 0.0)], [(3.0, 0.0)]
    assert _pairs(pred, [0.3, 0.7], true, "ocelot") == [(1, 0)]
    assert _pairs(pred, [0.7, 0.3], true, "ocelot") == [(0, 0)]
    assert _pairs(pred, [0.5, 0.5], true, "ocelot") == [(0, 0)]  # equal scores keep their order


@pytest.mark.parametrize("rule", RULES)
def test_empty_sets_and_counts(rule):
    none, one = np.empty((0, 2)), np.ones((1, 2))
    assert match(none, np.empty(0), one, radius=6, rule=rule).counts == Counts(0, 0, 1)
    assert match(one, np.ones(1), none, radius=6, rule=rule).counts == Counts(0, 1, 0)
    assert match(none, np.empty(0), none, radius=6, rule=rule).counts == Counts()
    assert match(one, np.ones(1), one, radius=6, rule=rule).counts == Counts(1, 0, 0)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_to_one_partner_and_the_radius(rule):
    rng = np.random.default_rng(3)
    true, pred = rng.uniform(0, 100, (300, 2)), rng.uniform(0, 100, (350, 2))
    pairs = match(pred, rng.uniform(size=350), true, radius=6, rule=rule).pairs
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs) > 50
    assert np.hypot(*(pred[pairs[:, 0]] - true[pairs[:, 1]]).T).max() <= 6
    assert (np.diff(pairs[:, 0]) > 0).all()


def test_greedy_rule_equals_its_plain_definition():
    rng = np.random.default_rng(5)
    true, pred, score = rng.uniform(0, 60, (120, 2)), rng.uniform(0, 60, (140, 2)), rng.uniform(size=140)
    free, expected = np.ones(120, bool), []
    for i in np.argsort(-score):
        distance = np.where(free, np.linalg.norm(true - pred[i], axis=1), np.inf)
        if distance.min() <= 6:
            expected.append((i, distance.argmin()))
            free[distance.argmin()] = False
    assert match(pred, score, true, radius=6, rule="ocelot").pairs.tolist() == [list(pair) for pair in sorted(expected)]


def test_pooled_and_averaged_scores():
    images = [Matches(np.zeros((3, 2), np.intp), 4, 5), Matches(np.zeros((0, 2), np.intp), 0, 0)]
    assert pool(images) == Counts(tp=3, fp=1, fn=2)
    assert pool(images).f1 == pytest.approx(2 / 3)
    assert mean_f1(images) == pytest.approx(1 / 3)  # the empty image adds nothing and is counted
    assert (pool(images).precision, pool(images).recall) == (0.75, 0.6)
    assert (f1(0, 0, 0), Counts().precision, mean_f1([]), pool([])) == (0.0, 1.0, 0.0, Counts())


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"rule": "hungarian"}, ConfigError, "give one of mcspatnet, ocelot"),
        ({"radius": 0}, ConfigError, "radius 0 must be above 0"),
        ({"pred_score": np.ones(3)}, DatasetError, r"shape \(3,\) for 2 predictions"),
        ({"pred_score": np.array([1, np.nan])}, DatasetError, "one finite score"),
        ({"pred_xy": np.ones((2, 3))}, DatasetError, r"predicted points of shape \(2, 3\)"),
        ({"true_xy": np.array([[np.inf, 0]])}, DatasetError, "labelled points are not all finite"),
    ],
)
def test_bad_input_is_named(change, error, text):
    good = {
        "pred_xy": np.ones((2, 2)),
        "pred_score": np.ones(2),
        "true_xy": np.ones((1, 2)),
        "radius": 6,
        "rule": "dpa",
    }
    values = good | change
    points = [values.pop(key) for key in ("pred_xy", "pred_score", "true_xy")]
    with pytest.raises(error, match=text):
        match(*points, **values)
