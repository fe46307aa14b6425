"""Scores of classified nuclei by every published rule, from counts of each patch.

A patch's predictions are matched once for all nuclei (detection) and once a class, as all rules but HoVer-Net's do;
counts of patches then add up, or their F1 are averaged, as the rule says:

    mcspatnet, dpa, max-cardinality, munkres   counts summed over patches, F1 of the sums
    ocelot      the same, with the script's 1e-7 in each denominator and its rounding to four digits
    puma        F1 of each patch, summed and divided by the number of patches; a class that a patch has neither in
                labels nor in predictions adds 0; a class in no patch at all is no class
    hovernet    one matching of all nuclei; F of a class from pairs whose types agree or not, errors of type weighing
                double (F_c), so that it cannot be compared with the others
    mcspatnet-script, cellvit   mcspatnet and hovernet with the habits of their scripts, see `script_habits`: whole px
                and an image without predictions missed six times over; a point at (0, 0) in an empty image
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from muse_core.labels.matching import Counts, Matches, Rule, match
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.script_habits import mcspatnet_counts, never_empty

NdcRule = Literal[
    "mcspatnet",
    "ocelot",
    "dpa",
    "puma",
    "max-cardinality",
    "munkres",
    "hovernet",
    "mcspatnet-script",
    "cellvit",
]
NDC_RULES: tuple[NdcRule, ...] = get_args(NdcRule)
MAIN_RULE: NdcRule = "mcspatnet"
RADIUS_UM = 3.0

# Where a rule's script is applied to its own dataset it uses this radius, px. Source: the scripts named in matching.py.
PUBLISHED_RADIUS_PX: dict[tuple[str, NdcRule], float] = {
    ("brca-m2c", "mcspatnet"): 6.0,
    ("brca-m2c", "mcspatnet-script"): 6.0,
    ("ocelot", "ocelot"): 15.0,
    ("puma", "puma"): 15.0,
}
_OCELOT_EPSILON = 1e-7  # Source: lunit-io/ocelot23algo, evaluation/eval.py
_OCELOT_DIGITS = 4


@dataclass(frozen=True)
class JudgedPatch:
    """Labels and predictions of one patch, in px of it.

    Attributes:
        name: of the patch.
        mpp: µm/px.
        true_xy, true_ids: (M, 2) and (M,) int64, labels in file order; `UNKNOWN_CLASS` where a label names none.
        xy, score, ids: (N, 2), (N,) 0..1 and (N,) int64, predictions.
    """

    name: str
    mpp: float
    true_xy: NDArray[np.floating]
    true_ids: NDArray[np.int64]
    xy: NDArray[np.floating]
    score: NDArray[np.floating]
    ids: NDArray[np.int64]

    def points(self, class_id: int | None = None) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Predictions and labels, (n, 2) each: of one class, or all (None)."""
        if class_id is None:
            return self.xy, self.true_xy
        return self.xy[self.ids == class_id], self.true_xy[self.true_ids == class_id]

    def of_known_class(self, radius_px: float) -> "JudgedPatch":
        """Without nuclei of unknown class and the predictions that are theirs: these are neither right nor wrong.

        A prediction is theirs where it is paired with one of them when all nuclei are matched at once.
        """
        unknown = self.true_ids == UNKNOWN_CLASS
        if not unknown.any():
            return self
        pairs = match(self.xy, self.score, self.true_xy, radius=radius_px, rule="max-cardinality").pairs
        theirs = np.isin(np.arange(len(self.ids)), pairs[unknown[pairs[:, 1]], 0])
        return replace(
            self,
            true_xy=self.true_xy[~unknown],
            true_ids=self.true_ids[~unknown],
            xy=self.xy[~theirs],
            score=self.score[~theirs],
            ids=self.ids[~theirs],
        )

    def matched(self, rule: Rule, radius_px: float, class_id: int | None = None) -> Matches:
        """Pairs by one rule: of one class' nuclei, or of all (None)."""
        xy, true_xy = self.points(class_id)
        score = self.score if class_id is None else self.score[self.ids == class_id]
        if rule == "ocelot" and len(score):
            # The script's own sort: among equal scores its order is numpy's, not the rows'.
            order = np.argsort(-score.astype(np.float32))
            return _in_order(xy, true_xy, order, radius_px)
        return match(xy, score, true_xy, radius=radius_px, rule=rule)


def _in_order(
    xy: NDArray[np.floating], true_xy: NDArray[np.floating], order: NDArray[np.intp], radius_px: float
) -> Matches:
    """OCELOT's greedy pairs with the predictions taken in a given order; pairs name the rows as they came."""
    found = match(xy[order], np.arange(len(order), 0, -1.0), true_xy, radius=radius_px, rule="ocelot")
    pairs = np.column_stack([order[found.pairs[:, 0]], found.pairs[:, 1]])
    return Matches(pairs, found.n_pred, found.n_true)


@dataclass(frozen=True)
class RuleScores:
    """What one rule says of a split; F1 and friends 0..1, a class with no place in the rule's mean is NaN.

    Attributes:
        detection: f1, precision, recall of all nuclei.
        classes: the same for each class.
        mean_class_f1: plain mean over classes.
    """

    detection: tuple[float, float, float]
    classes: tuple[tuple[float, float, float], ...]
    mean_class_f1: float


def counts_of(
    patches: Sequence[JudgedPatch], n_classes: int, rule: NdcRule, *, radius_um: float = RADIUS_UM, dataset: str = ""
) -> NDArray[np.int64]:
    """True positives, false positives and misses: (patches, C + 1, 3), detection in the last place.

    For `hovernet` the rows of classes hold what its formula takes instead: 2 TP_c + errors of type + errors of
    detection make up F_c through `score_counts` just as well, see `_hovernet_counts`.

    Args:
        patches: of a split.
        n_classes: C.
        rule: see the module's text.
        radius_um: farthest that a prediction may lie from its label.
        dataset: where a rule has a published radius for it, that is used, if `radius_um` is the usual 3.
    """
    rows = []
    for patch in patches:
        radius_px = radius_um / patch.mpp
        if radius_um == RADIUS_UM:
            radius_px = PUBLISHED_RADIUS_PX.get((dataset, rule), radius_px)
        if rule == "hovernet":
            rows.append(_hovernet_counts(patch, n_classes, radius_px))
        elif rule == "cellvit":
            rows.append(_hovernet_counts(_never_empty(patch), n_classes, radius_px))
        else:
            named = patch.of_known_class(radius_px)
            each = [_counts_of_class(named, rule, radius_px, class_id) for class_id in range(n_classes)]
            each.append(_counts_of_class(patch, rule, radius_px, None))
            rows.append([(one.tp, one.fp, one.fn) for one in each])
    return np.array(rows, np.int64).reshape(-1, n_classes + 1, 3)


def _counts_of_class(
    patch: JudgedPatch, rule: Rule | Literal["mcspatnet-script"], radius_px: float, class_id: int | None
) -> Counts:
    """Of one class' nuclei, or of all (None), by a rule that matches each class by itself."""
    if rule == "mcspatnet-script":
        return mcspatnet_counts(*patch.points(class_id), radius_px)
    return patch.matched(rule, radius_px, class_id).counts


def _never_empty(patch: JudgedPatch) -> JudgedPatch:
    """The patch with a point of no class at (0, 0) where it has no label, and where it has no prediction."""
    true_xy, true_ids = never_empty(patch.true_xy, patch.true_ids)
    xy, ids = never_empty(patch.xy, patch.ids)
    score = patch.score if len(patch.xy) else np.zeros(1)
    return replace(patch, true_xy=true_xy, true_ids=true_ids, xy=xy, score=score, ids=ids)


def _hovernet_counts(patch: JudgedPatch, n_classes: int, radius_px: float) -> list[tuple[int, int, int]]:
    """HoVer-Net's F_c as counts: F_c = 2 TP / (2 TP + 2 FP_c + 2 FN_c + FP_d + FN_d).

    TP: pairs of the class on both sides; FP_c, FN_c: pairs of it on one side; FP_d, FN_d: points of it without a pair.
    With fp = 2 FP_c + FP_d and fn = 2 FN_c + FN_d that is the usual 2 tp / (2 tp + fp + fn).

    Source: cellvit/training/utils/metrics.py of TIO-IKIM/CellViT-Inference (cell_type_detection_scores; its term of
    true negatives is 0), after vqdang/hover_net, compute_stats.py.
    """
    found = patch.matched("munkres", radius_px)
    pred_paired, true_paired = patch.ids[found.pairs[:, 0]], patch.true_ids[found.pairs[:, 1]]
    counts = []
    for class_id in range(n_classes):
        pred_is, true_is = pred_paired == class_id, true_paired == class_id
        lone_preds = int((patch.ids == class_id).sum() - pred_is.sum())
        lone_trues = int((patch.true_ids == class_id).sum() - true_is.sum())
        false, missed = int((pred_is & ~true_is).sum()), int((true_is & ~pred_is).sum())
        counts.append((int((pred_is & true_is).sum()), 2 * false + lone_preds, 2 * missed + lone_trues))
    return [*counts, (found.counts.tp, found.counts.fp, found.counts.fn)]


def score_counts(counts: NDArray[np.int64], rule: NdcRule) -> RuleScores:
    """Scores of counts (patches, C + 1, 3) of `counts_of`, pooled as the rule does."""
    triples = _puma(counts) if rule == "puma" else _pooled(counts, rule)
    f1 = triples[:-1, 0]
    counted = f1[~np.isnan(f1)]
    mean = float(counted.mean()) if len(counted) else 0.0
    as_tuples = [(float(f), float(p), float(r)) for f, p, r in triples]
    return RuleScores(as_tuples[-1], tuple(as_tuples[:-1]), mean)


def per_image(counts: NDArray[np.int64]) -> RuleScores:
    """F1, precision and recall of each patch, averaged over the patches with a label or prediction of a class."""
    tp, fp, fn = np.moveaxis(counts.astype(np.float64), -1, 0)  # (patches, C + 1)
    triples = np.stack(_triple(tp, fp, fn), -1)  # (patches, C + 1, 3)
    present = (tp + fp + fn > 0)[..., None]
    mean = (triples * present).sum(0) / np.maximum(present.sum(0), 1)
    as_tuples = [(float(f), float(p), float(r)) for f, p, r in mean]
    return RuleScores(as_tuples[-1], tuple(as_tuples[:-1]), float(mean[:-1, 0].mean()))


def bootstrap(
    counts: NDArray[np.int64], rule: NdcRule, *, draws: int = 1000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % intervals of F1 by drawing patches with replacement.

    Nuclei of a patch share stain and annotator, so patches are drawn, not nuclei.

    Args:
        counts: (patches, C + 1, 3).
        rule: as for `score_counts`.
        draws: how many.
        seed: of the draws.

    Returns:
        Lower and upper ends, (C + 2,): each class, detection, and the mean over classes.
    """
    rng = np.random.default_rng(seed)
    # Few patches are often drawn in the same order again.
    rows, again = np.unique(rng.integers(0, len(counts), (draws, len(counts))), axis=0, return_inverse=True)
    values = np.empty((len(rows), counts.shape[1] + 1))
    for index, drawn in enumerate(rows):
        scores = score_counts(counts[drawn], rule)
        values[index] = [*(triple[0] for triple in scores.classes), scores.detection[0], scores.mean_class_f1]
    values = values[again.reshape(-1)]
    low, high = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values).all(axis=0)  # a class that is nowhere has no interval
    low[known], high[known] = np.nanpercentile(values[:, known], [2.5, 97.5], axis=0)
    return low, high


def _pooled(counts: NDArray[np.int64], rule: NdcRule) -> NDArray[np.float64]:
    """F1, precision, recall of summed counts, (C + 1, 3)."""
    tp, fp, fn = counts.sum(axis=0).T.astype(np.float64)
    if rule != "ocelot":
        return np.stack(_triple(tp, fp, fn), 1)
    precision = tp / (tp + fp + _OCELOT_EPSILON)
    recall = tp / (tp + fn + _OCELOT_EPSILON)
    f1 = 2 * precision * recall / (precision + recall + _OCELOT_EPSILON)
    rounded = [
        [round(float(value), _OCELOT_DIGITS) for value in row] for row in zip(f1, precision, recall, strict=True)
    ]
    return np.array(rounded)


def _triple(
    tp: NDArray[np.float64], fp: NDArray[np.float64], fn: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """F1, precision and recall; precision is 1 without predictions and recall without labels, as MCSpatNet counts."""
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0)
    recall = np.where(tp + fn > 0, tp / np.maximum(tp + fn, 1), 1.0)
    return f1, precision, recall


def _puma(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each patch's F1, precision and recall averaged over all patches, (C + 1, 3); NaN for a class in no patch.

    Source: tueimage/PUMA-challenge-eval-track1, eval_nuclei.py (0 for any empty denominator) and evaluate.py.
    """
    tp, fp, fn = np.moveaxis(counts.astype(np.float64), -1, 0)  # (patches, C + 1)
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    recall = np.divide(tp, tp + fn, out=np.zeros_like(tp), where=tp + fn > 0)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(tp), where=total > 0)
    # Added up in the order of the patches and divided once, as the script does, for its last digit.
    sums = np.add.accumulate(np.stack([f1, precision, recall], -1), axis=0)[-1]
    averaged = sums / len(counts)
    averaged[(counts.sum(axis=(0, 2)) == 0)] = np.nan
    return np.asarray(averaged)
