import numpy as np
import pytest

from muse_core.ndc.scores import NDC_RULES, JudgedPatch, bootstrap, counts_of, per_image, score_counts

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
    }


def test_who_chooses_first_decides():
    # Labels A (0) and B (5), predictions p (-5, score 0.9) and q (2, score 0.5), radius 6:
    # label first: A takes q, its nearest; B has nothing left within 6.          1 hit, p too far from B
    # score first: p takes A (5 px), q takes B (3 px).                            2 hits
    # label first, surest first (PUMA): A takes p, B takes q.                     2 hits
    patch = _patch([(100, 0, 0), (105, 0, 0)], [(95, 0, 0, 0.9), (102, 0, 0, 0.5)])
    hits = {rule: int(counts_of([patch], 1, rule)[0, -1, 0]) for rule in NDC_RULES if rule != "hovernet"}
    assert hits == {"mcspatnet": 1, "ocelot": 2, "dpa": 2, "puma": 2, "max-cardinality": 2, "munkres": 2}


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
