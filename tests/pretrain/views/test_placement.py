"""Where views lie, against points worked out by hand, plain loops, and an independent count of overlaps."""

import numpy as np
import pytest

from muse_core.pretrain.views.placement import RoiFrame, ViewPlace, coordinates, place_views, validity
from muse_core.pretrain.views.settings import ViewSettings

FRAME = RoiFrame(2048, 2048, 0.25)
NO_BORDER = {"border_px": 0, "max_nuclei": 10_000}


def plain_coordinates(place, x, y):
    """Equation 5 and one flip after the other, in Python numbers."""
    scale = place.side_px / place.side_roi
    x, y = (x - place.x_roi) * scale, (y - place.y_roi) * scale
    if place.mirrored:
        x = place.side_px - x
    for _ in range(place.quarter_turns):
        x, y = y, place.side_px - x
    return x, y


@pytest.mark.parametrize(
    ("mirrored", "turns", "expected"),
    [
        (False, 0, (4, 6)),
        (False, 1, (6, 16)),
        (False, 2, (16, 14)),
        (False, 3, (14, 4)),
        (True, 0, (16, 6)),
        (True, 1, (6, 4)),
        (True, 2, (4, 14)),
        (True, 3, (14, 16)),
    ],
)
def test_coordinates_by_hand(mirrored, turns, expected):
    # A square of 10 ROI px at (100, 50) becomes 20 px: (102, 53) is (2, 3) of the square, (4, 6) before it is turned.
    place = ViewPlace(100, 50, 10, 20, mirrored, turns)
    np.testing.assert_allclose(coordinates((place,), np.array([[102.0, 53.0]]))[0, 0], expected, atol=1e-5)


def test_the_two_maps_undo_each_other():
    rng = np.random.default_rng(0)
    for _ in range(20):
        place = ViewPlace(*rng.uniform(0, 900, 2), rng.uniform(50, 500), 224, rng.random() < 0.5, int(rng.integers(4)))
        there, back = place.to_view, place.to_roi
        np.testing.assert_allclose(there[:, :2] @ back[:, :2], np.eye(2), atol=1e-12)
        np.testing.assert_allclose(there[:, :2] @ back[:, 2] + there[:, 2], 0, atol=1e-9)


def test_the_far_edge_is_outside_whichever_way_the_view_is_turned():
    # The square's left edge is x = 0 of the view, and x = 20 once mirrored: pixels are half open, so out it is.
    xy = np.array([[100.0, 55.0], [110.0, 55.0]])
    upright, mirrored = ViewPlace(100, 50, 10, 20), ViewPlace(100, 50, 10, 20, mirrored=True)
    places = (upright, mirrored)
    np.testing.assert_array_equal(validity(places, coordinates(places, xy), 0), [[True, False], [False, True]])


def test_the_border_is_of_the_view_not_of_the_roi():
    place = ViewPlace(0, 0, 40, 20)
    xy = np.array([[7.9, 20], [8.0, 20], [31.9, 20], [32.0, 20]])
    np.testing.assert_array_equal(validity((place,), coordinates((place,), xy), 4), [[False, True, True, False]])


@pytest.mark.parametrize("placement", ["anchored", "sub_roi", "uniform"])
def test_shared_nuclei_are_the_intersection_of_index_sets(placement):
    settings = ViewSettings(placement=placement)
    rng = np.random.default_rng(1)
    matched = 0
    for seed in range(6):
        xy = rng.uniform(0, 700, (300, 2)).astype(np.float32)
        places = place_views(RoiFrame(700, 700, 0.25), xy, settings, np.random.default_rng(seed))
        valid = validity(places, coordinates(places, xy), settings.border_px)
        inside = []
        for place in places:
            moved = [plain_coordinates(place, float(x), float(y)) for x, y in xy]
            low, high = 4, place.side_px - 4
            inside.append({k for k, (x, y) in enumerate(moved) if low <= x < high and low <= y < high})
        for first, one in enumerate(inside):
            for second, other in enumerate(inside):
                assert set(np.flatnonzero(valid[first] & valid[second]).tolist()) == one & other
                matched += len(one & other) * (first < second)
    assert matched > 100


@pytest.mark.parametrize("placement", ["anchored", "sub_roi", "uniform"])
@pytest.mark.parametrize(("width", "height"), [(448, 448), (448, 900), (1000, 460)])
def test_squares_stay_within_the_roi(placement, width, height):
    settings = ViewSettings(placement=placement)
    xy = np.array([[0.0, 0.0], [width, height], [3.0, height / 2]])  # all at the edge: no usable anchor
    for seed in range(40):
        for place in place_views(RoiFrame(width, height, 0.25), xy, settings, np.random.default_rng(seed)):
            assert 0 <= place.x_roi <= place.x_roi + place.side_roi <= width + 1e-9
            assert 0 <= place.y_roi <= place.y_roi + place.side_roi <= height + 1e-9


def test_scales_cover_their_range():
    settings = ViewSettings(global_mpp=(0.25, 0.5), local_mpp=(0.3, 0.4))
    mpp = np.array(
        [
            [0.25 * place.side_roi / place.side_px for place in place_views(FRAME, np.empty((0, 2)), settings, rng)]
            for rng in map(np.random.default_rng, range(400))
        ]
    )
    np.testing.assert_allclose([mpp[:, :2].min(), mpp[:, :2].max()], [0.25, 0.5], atol=0.003)
    np.testing.assert_allclose([mpp[:, 2:].min(), mpp[:, 2:].max()], [0.3, 0.4], atol=0.001)
    assert mpp[:, :2].mean() == pytest.approx(0.375, abs=0.01)
    assert abs(np.corrcoef(mpp[:, 0], mpp[:, 1])[0, 1]) < 0.15  # each view draws its own


def test_log_uniform_scales_favour_the_fine():
    settings = ViewSettings(mpp_distribution="log-uniform", local_views=0)
    places = [place_views(FRAME, np.empty((0, 2)), settings, np.random.default_rng(seed)) for seed in range(1000)]
    mpp = [0.25 * place.side_roi / place.side_px for pair in places for place in pair]
    assert np.exp(np.log(mpp).mean()) == pytest.approx(np.sqrt(0.25 * 0.5), abs=0.006)  # 4 standard errors


def test_a_scale_that_does_not_fit_is_not_drawn():
    places = place_views(RoiFrame(300, 400, 0.25), np.empty((0, 2)), ViewSettings(), np.random.default_rng(0))
    assert max(place.side_roi for place in places) <= 300


def test_orientations_come_alike_and_can_be_switched_off():
    seen = [
        (place.mirrored, place.quarter_turns)
        for seed in range(100)
        for place in place_views(FRAME, np.empty((0, 2)), ViewSettings(), np.random.default_rng(seed))
    ]
    counts = [seen.count((mirrored, turns)) for mirrored in (False, True) for turns in range(4)]
    assert min(counts) > 90  # of 125
    assert max(counts) < 165
    still = ViewSettings(mirror_share=0, quarter_turns=False)
    for place in place_views(FRAME, np.empty((0, 2)), still, np.random.default_rng(0)):
        assert (place.mirrored, place.quarter_turns) == (False, 0)


def test_anchored_views_all_show_one_nucleus():
    settings = ViewSettings()
    for seed in range(200):
        xy = np.random.default_rng([seed, 1]).uniform(0, 2048, (5, 2)).astype(np.float32)
        usable = ((xy > 8) & (xy < 2040)).all(axis=1).any()  # 4 px of a view of 0.5 µm/px
        places = place_views(FRAME, xy, settings, np.random.default_rng(seed))
        shared = validity(places, coordinates(places, xy), settings.border_px).all(axis=0).any()
        assert shared or not usable


def test_the_anchor_stands_anywhere_in_its_views():
    xy = np.array([[1024.0, 1024.0]])
    settings = ViewSettings(mirror_share=0, quarter_turns=False)
    seen = np.concatenate(
        [coordinates(place_views(FRAME, xy, settings, np.random.default_rng(seed)), xy)[:2, 0] for seed in range(300)]
    )
    np.testing.assert_allclose(seen.mean(axis=0), 112, atol=8)
    assert seen.min() < 12
    assert seen.max() > 212


# Monte Carlo of an independent implementation: 5,000 nuclei/mm2, mpp uniform in 0.25-0.5. Its anchor is a point of the
# tissue; ours is a nucleus, which is one more matched nucleus in each pair.
@pytest.mark.parametrize(
    ("side", "placement", "pair", "empty", "mean", "tolerance"),
    [
        (2048, "uniform", "global", 0.88, 1.3, 0.35),
        (2048, "uniform", "local", 0.95, 0.2, 0.35),
        (768, "uniform", "global", 0.18, 12.4, 0.1),
        (512, "uniform", "local", 0.18, 4.4, 0.1),
        (2048, "anchored", "global", 0.0, 17.2 + 1, 0.1),
        (2048, "anchored", "local", 0.0, 5.1 + 1, 0.1),
    ],
)
def test_overlap_as_an_independent_count_has_it(side, placement, pair, empty, mean, tolerance):
    settings = ViewSettings(placement=placement, local_views=1, **NO_BORDER)
    other = {"global": 1, "local": 2}[pair]
    count = round(5000 * (side * 0.25e-3) ** 2)
    shared = []
    for seed in range(500):
        rng = np.random.default_rng([seed, side])
        xy = rng.uniform(0, side, (count, 2))
        places = place_views(RoiFrame(side, side, 0.25), xy, settings, rng)
        valid = validity(places, coordinates(places, xy), 0)
        shared.append(int((valid[0] & valid[other]).sum()))
    assert np.mean(np.array(shared) == 0) == pytest.approx(empty, abs=0.05)
    assert np.mean(shared) == pytest.approx(mean, rel=tolerance)


def test_a_part_of_the_roi_brings_views_together():
    xy = np.random.default_rng(0).uniform(0, 2048, (1311, 2))
    empty = {}
    for placement in ("uniform", "sub_roi"):
        settings = ViewSettings(placement=placement, **NO_BORDER)
        none = 0
        for seed in range(150):
            places = place_views(FRAME, xy, settings, np.random.default_rng(seed))
            valid = validity(places, coordinates(places, xy), 0)
            none += not (valid[0] & valid[1]).any()
        empty[placement] = none / 150
    assert empty["uniform"] > 0.75
    assert empty["sub_roi"] < 0.05
