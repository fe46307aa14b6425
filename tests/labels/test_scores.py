import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from muse_core.labels.scores import NDC_RULES, JudgedPatch, bootstrap, counts_of, per_image, score_counts

MPP = 0.5  # 3 µm are 6 px


def _patch(true, pred, *, mpp=MPP, name="p"):
    """Labels (x, y, class) and predictions (x, y, class, score)."""
    true, pred = np.array(true, float).reshape(-1, 3), np.array(pred, float).reshape(-1, 4)
    ids = true[:, 2].astype(np.int64), pred[:, 2].astype(np.int64)
    return JudgedPatch(name, mpp, true[:, :2], ids[0], pred[:, :2], pred[:, 3], ids[1])


def _f1(patches, rule, n_classes=2, **keywords):
    scores = score_counts(counts_of(patches, n_classes, rule, **keywords), rule)
    return scores.detection[0], *(one[0] for one in scores.classes)


@pytest.mark.parametrize("rule", NDC_RULES)
def test_perfect_predictions_score_one_and_none_score_zero(rule):
    true = [(10, 10, 0), (30, 10, 1), (50, 40, 1)]
    perfect = _patch(true, [(*row, 0.9) for row in true])
    assert _f1([perfect], rule) == pytest.approx((1, 1, 1), abs=1e-6)
    assert _f1([_patch(true, [])], rule) == (0, 0, 0)


def test_at_exactly_the_radius_rules_part():
    patch = _patch([(10, 10, 0)], [(16, 10, 0, 0.9)])
    hit = {rule: _f1([patch], rule, 1)[0] > 0.5 for rule in NDC_RULES}
    assert hit == {
        "mcspatnet": False,
        "puma": False,
        "ocelot": True,
        "dpa": True,
        "max-cardinality": True,
        "munkres": True,
        "hovernet": True,
        "mcspatnet-script": False,
        "cellvit": True,
    }


def test_who_chooses_first_decides():
    # Labels A (0) and B (5), predictions p (-5, score 0.9) and q (2, score 0.5), radius 6:
    # label first: A takes q, its nearest; B has nothing left within 6.          1 hit, p too far from B
    # score first: p takes A (5 px), q takes B (3 px).                            2 hits
    # label first, surest first (PUMA): A takes p, B takes q.                     2 hits
    patch = _patch([(100, 0, 0), (105, 0, 0)], [(95, 0, 0, 0.9), (102, 0, 0, 0.5)])
    hits = {rule: int(counts_of([patch], 1, rule)[0, -1, 0]) for rule in NDC_RULES}
    label_first = {"mcspatnet": 1, "mcspatnet-script": 1}
    assert hits == dict.fromkeys(NDC_RULES, 2) | label_first


def test_munkres_spends_pairs_on_far_points():
    # Least total distance over all four: p-B (7) and q-A (7) sum to 14, p-A (1) and q-B (15) to 16; 7 is too far.
    patch = _patch([(0, 50, 0), (8, 50, 0)], [(1, 50, 0, 0.9), (-7, 50, 0, 0.8)])
    hits = {rule: int(counts_of([patch], 1, rule)[0, -1, 0]) for rule in ("mcspatnet", "munkres", "max-cardinality")}
    assert hits == {"mcspatnet": 1, "munkres": 0, "max-cardinality": 1}


def test_a_wrong_class_is_a_miss_and_a_false_point_and_counts_double_for_hovernet():
    patch = _patch([(10, 10, 0), (40, 40, 0), (70, 70, 1)], [(10, 10, 1, 0.9), (40, 40, 0, 0.9), (70, 70, 1, 0.9)])
    detection, first, second = _f1([patch], "mcspatnet")
    assert detection == 1
    assert first == pytest.approx(2 / (2 + 1))  # 1 hit, 1 miss
    assert second == pytest.approx(2 / (2 + 1))  # 1 hit, 1 false
    assert _f1([patch], "hovernet")[1:] == pytest.approx((2 / (2 + 2), 2 / (2 + 2)))


def test_hovernet_with_errors_of_detection_too_by_hand():
    # Class 0: 2 pairs right, 1 pair labelled 0 but called 1, 1 label lost, 1 lone prediction.
    patch = _patch(
        [(10, 10, 0), (40, 10, 0), (70, 10, 0), (100, 10, 0)],
        [(10, 10, 0, 1), (40, 10, 0, 1), (70, 10, 1, 1), (200, 10, 0, 1)],
    )
    # Munkres over all four would marry the lone prediction to the lost label, 100 px apart, and drop the pair.
    assert _f1([patch], "hovernet")[1] == pytest.approx(2 * 2 / (2 * 2 + 2 * 1 + 1 + 1))
    assert _f1([patch], "hovernet")[0] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))


def test_pooling_counts_and_averaging_patches_differ():
    good = _patch([(20.0 * i, 10, 0) for i in range(1, 10)], [(20.0 * i, 10, 0, 0.9) for i in range(1, 10)])
    bad = _patch([(10, 10, 1)], [(50, 50, 1, 0.9)])
    assert _f1([good, bad], "mcspatnet") == pytest.approx((0.9, 1, 0))
    # PUMA: each class' F1 of each patch over both patches, also where the patch has none of the class.
    assert _f1([good, bad], "puma") == pytest.approx((0.5, 0.5, 0))
    averaged = per_image(counts_of([good, bad], 2, "mcspatnet"))
    assert averaged.detection[0] == pytest.approx(0.5)
    assert [one[0] for one in averaged.classes] == [1, 0]  # over the patches that have any


def test_a_class_in_no_patch_is_left_out_of_pumas_mean_and_counts_in_the_others():
    patch = _patch([(10, 10, 0)], [(10, 10, 0, 0.9)])
    assert score_counts(counts_of([patch], 2, "puma"), "puma").mean_class_f1 == 1
    assert score_counts(counts_of([patch], 2, "mcspatnet"), "mcspatnet").mean_class_f1 == 0.5


def test_mcspatnets_script_misses_an_image_without_predictions_six_times_over():
    found = _patch([(10, 10, 0), (40, 10, 1)], [(10, 10, 0, 0.9), (40, 10, 1, 0.9)])
    silent = _patch([(10, 10, 0)], [])
    plain, script = (counts_of([found, silent], 2, rule).sum(0).tolist() for rule in ("mcspatnet", "mcspatnet-script"))
    assert plain == [[1, 0, 1], [1, 0, 0], [2, 0, 1]]
    assert script == [[1, 0, 6], [1, 0, 0], [2, 0, 6]]
    # A class that is silent in an image which is not: six misses of the class, one of detection.
    confused = _patch([(10, 10, 0)], [(10, 10, 1, 0.9)])
    assert counts_of([confused], 2, "mcspatnet-script")[0].tolist() == [[0, 0, 6], [0, 1, 0], [1, 0, 0]]


def test_mcspatnets_script_sees_whole_pixels_one_point_a_pixel():
    # 5.8 px apart, but 6 whole px: not below the radius. And 6.3 apart, 5 whole px.
    far = _patch([(10.9, 10, 0)], [(16.7, 10, 0, 0.9)])
    near = _patch([(10.0, 10, 0)], [(15.9, 10.9, 0, 0.9)])
    assert [_f1([patch], "mcspatnet-script", 1)[0] for patch in (far, near)] == [0, 1]
    assert _f1([far], "mcspatnet", 1)[0] == 1
    doubled = _patch([(10.2, 10.2, 0), (10.8, 10.8, 1)], [(10.5, 10.5, 0, 0.9)])
    assert counts_of([doubled], 2, "mcspatnet-script")[0].tolist() == [[1, 0, 0], [0, 0, 6], [1, 0, 0]]
    assert counts_of([doubled], 2, "mcspatnet")[0].tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1]]


def _mcspatnet_by_the_book(patch, class_id, n_classes):
    """The script told plainly: each label, in raster order, takes the nearest dot that is left, below 6 px."""

    def rows_of(xy, ids):
        kept = xy if class_id == n_classes else xy[ids == class_id]
        return sorted({(int(y), int(x)) for x, y in kept})

    trues, preds = rows_of(patch.true_xy, patch.true_ids), rows_of(patch.xy, patch.ids)
    if not preds:
        return [0, 0, 6 * len(trues)]
    tp, n_pred = 0, len(preds)
    for true in trues:
        distance = [np.hypot(true[0] - row, true[1] - column) for row, column in preds]
        if distance and min(distance) < 6:
            preds.pop(int(np.argmin(distance)))
            tp += 1
    return [tp, n_pred - tp, len(trues) - tp]


@pytest.mark.parametrize("seed", range(5))
def test_mcspatnets_script_to_the_last_count(seed):
    patches = _random_patches(np.random.default_rng(seed), 6, mpp=0.5, whole_px=False)
    ours = counts_of(patches, 2, "mcspatnet-script", dataset="brca-m2c")
    for patch, counts in zip(patches, ours, strict=True):
        assert counts.tolist() == [_mcspatnet_by_the_book(patch, class_id, 2) for class_id in range(3)]


def test_cellvits_point_in_an_empty_image():
    # No label: the point at (0, 0) that stands for one is missed, unless a prediction lies near it; no prediction: it
    # is false; neither: the two are a pair. Classes have no part in it, but for a prediction paired with it.
    nothing, lone, corner = _patch([], []), _patch([], [(50, 50, 0, 0.9)]), _patch([], [(2, 2, 0, 0.9)])
    silent = _patch([(50, 50, 0)], [])
    counts = {
        rule: counts_of([nothing, lone, corner, silent], 1, rule)[:, -1].tolist() for rule in ("hovernet", "cellvit")
    }
    assert counts["hovernet"] == [[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert counts["cellvit"] == [[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]]
    assert counts_of([corner], 1, "hovernet")[0, 0].tolist() == [0, 1, 0]
    assert counts_of([corner], 1, "cellvit")[0, 0].tolist() == [0, 2, 0]  # an error of type, which weighs double


def _hovernet_by_the_book(patches, class_id, radius):
    """F_d and F_c told plainly, with weights 2, 2, 1, 1."""
    tp = fp_c = fn_c = fp_d = fn_d = 0
    for patch in patches:
        cost = np.linalg.norm(patch.true_xy[:, None] - patch.xy[None], axis=2)
        pairs = [(t, p) for t, p in zip(*linear_sum_assignment(cost), strict=True) if cost[t, p] <= radius]
        true_paired, pred_paired = [t for t, _ in pairs], [p for _, p in pairs]
        for t, p in pairs:
            tp += patch.true_ids[t] == patch.ids[p] == class_id
            fp_c += patch.true_ids[t] != class_id and patch.ids[p] == class_id
            fn_c += patch.true_ids[t] == class_id and patch.ids[p] != class_id
        fp_d += (np.delete(patch.ids, pred_paired) == class_id).sum()
        fn_d += (np.delete(patch.true_ids, true_paired) == class_id).sum()
    return 2 * tp / (2 * tp + 2 * fp_c + 2 * fn_c + fp_d + fn_d)


@pytest.mark.parametrize("seed", range(5))
def test_hovernets_f_c_as_its_script_weighs_it(seed):
    patches = _random_patches(np.random.default_rng(seed), 6, mpp=0.25, whole_px=False)
    ours = score_counts(counts_of(patches, 2, "hovernet"), "hovernet")
    book = [_hovernet_by_the_book(patches, class_id, 12) for class_id in range(2)]
    assert [one[0] for one in ours.classes] == pytest.approx(book)


def test_ocelot_rounds_each_class_before_the_mean():
    # F1 of 2/3 and 4/7 round to 0.6667 and 0.5714; their mean is told as it comes out.
    first = _patch([(20, 20, 0), (60, 20, 0)], [(20, 20, 0, 0.9)])
    second = _patch([(20.0 * i, 80, 1) for i in range(1, 6)], [(20, 80, 1, 0.9), (40, 80, 1, 0.9)])
    scores = score_counts(counts_of([first, second], 2, "ocelot"), "ocelot")
    assert [one[0] for one in scores.classes] == [0.6667, 0.5714]
    assert scores.mean_class_f1 == pytest.approx((0.6667 + 0.5714) / 2, abs=1e-15)
    plain = score_counts(counts_of([first, second], 2, "dpa"), "dpa")
    assert plain.mean_class_f1 == pytest.approx((2 / 3 + 4 / 7) / 2)


def test_no_predictions_mean_a_precision_of_one_for_mcspatnet():
    patch = _patch([(10, 10, 0)], [])
    assert score_counts(counts_of([patch], 1, "mcspatnet"), "mcspatnet").detection == (0, 1, 0)


def _ocelot_by_the_book(patches, n_classes, cutoff):
    """OCELOT's script told plainly: float32 distances, surest first, nearest free label, 1e-7, four digits."""
    scores = []
    for class_id in range(n_classes):
        tp = fp = n_true = 0
        for patch in patches:
            pred = patch.xy[patch.ids == class_id].astype(np.float32)
            true = patch.true_xy[patch.true_ids == class_id].astype(np.float32)
            n_true += len(true)
            free = np.ones(len(true), bool)
            for row in np.argsort(-patch.score[patch.ids == class_id].astype(np.float32)):
                distance = np.linalg.norm(pred[row] - true, axis=1)
                near = np.flatnonzero(free & (distance <= cutoff))
                if len(near):
                    free[near[distance[near].argmin()]] = False
                    tp += 1
                else:
                    fp += 1
        precision, recall = tp / (tp + fp + 1e-7), tp / (n_true + 1e-7)
        scores.append((round(2 * precision * recall / (precision + recall + 1e-7), 4), round(precision, 4)))
    return scores, sum(f1 for f1, _ in scores) / n_classes


def _puma_by_the_book(patches, n_classes):
    """PUMA's scripts told plainly: label by label, surest then nearest below 15 px, F1 a patch, over all patches."""
    sums = dict.fromkeys(range(n_classes), 0.0)
    for patch in patches:
        for class_id in range(n_classes):
            pred = [tuple(row) for row in patch.xy[patch.ids == class_id]]
            score = list(patch.score[patch.ids == class_id])
            true = patch.true_xy[patch.true_ids == class_id]
            n_pred, tp = len(pred), 0
            for label in true:
                near = [
                    (-s, np.linalg.norm(np.subtract(p, label)), i)
                    for i, (p, s) in enumerate(zip(pred, score, strict=True))
                    if np.linalg.norm(np.subtract(p, label)) < 15
                ]
                if near:
                    best = min(near)[2]
                    del pred[best], score[best]
                    tp += 1
            precision = tp / n_pred if n_pred else 0
            recall = tp / len(true) if len(true) else 0
            sums[class_id] += 2 * precision * recall / (precision + recall) if precision + recall else 0
    return {class_id: total / len(patches) for class_id, total in sums.items()}


def _random_patches(rng, count, *, mpp, whole_px):
    patches = []
    for index in range(count):
        n_true, n_pred = rng.integers(0, 60, 2)
        true, pred = rng.uniform(0, 400, (n_true, 2)), rng.uniform(0, 400, (n_pred, 2))
        kept = min(n_true, n_pred)
        pred[:kept] = true[:kept] + rng.normal(0, 8, (kept, 2))
        if whole_px:
            true, pred = np.round(true), np.round(pred)
        score = np.round(rng.uniform(0, 1, n_pred), 1)  # ties, as many models have
        ids = rng.integers(0, 2, n_true), rng.integers(0, 2, n_pred)
        patches.append(JudgedPatch(f"p{index}", mpp, true, ids[0], pred, score, ids[1]))
    return patches


@pytest.mark.parametrize("seed", range(5))
def test_ocelot_to_the_last_digit_of_its_script(seed):
    patches = _random_patches(np.random.default_rng(seed), 6, mpp=0.2, whole_px=True)
    ours = score_counts(counts_of(patches, 2, "ocelot", dataset="ocelot"), "ocelot")
    book, mean = _ocelot_by_the_book(patches, 2, 15)
    assert [(f1, precision) for f1, precision, _ in ours.classes] == book
    assert ours.mean_class_f1 == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_puma_to_the_last_digit_of_its_scripts(seed):
    patches = _random_patches(np.random.default_rng(seed), 6, mpp=0.23, whole_px=False)
    ours = score_counts(counts_of(patches, 2, "puma", dataset="puma"), "puma")
    book = _puma_by_the_book(patches, 2)
    assert [one[0] for one in ours.classes] == list(book.values())


def test_a_published_radius_holds_on_its_own_dataset_unless_another_is_asked_for():
    patch = _patch([(10, 10, 0)], [(24.5, 10, 0, 0.9)], mpp=0.23)  # 14.5 px: 3.3 µm
    assert _f1([patch], "puma", 1, dataset="puma")[0] == 1
    assert _f1([patch], "puma", 1)[0] == 0
    assert _f1([patch], "puma", 1, dataset="puma", radius_um=2.0)[0] == 0


def test_intervals_hold_the_score_and_narrow_with_more_patches():
    rng = np.random.default_rng(0)
    few, many = (counts_of(_random_patches(rng, n, mpp=0.5, whole_px=False), 2, "dpa") for n in (5, 80))
    widths = []
    for counts in (few, many):
        low, high = bootstrap(counts, "dpa", draws=300)
        scores = score_counts(counts, "dpa")
        values = np.array([*(one[0] for one in scores.classes), scores.detection[0], scores.mean_class_f1])
        assert ((low <= values) & (values <= high)).all()
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 2


def test_the_same_draws_give_the_same_interval():
    counts = counts_of(_random_patches(np.random.default_rng(1), 5, mpp=0.5, whole_px=False), 2, "dpa")
    assert np.array_equal(bootstrap(counts, "dpa", draws=50), bootstrap(counts, "dpa", draws=50))
