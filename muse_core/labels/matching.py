"""Match predicted points to labelled nuclei by the rules that published scores were counted with.

Rules disagree on the same predictions, so a score is told with its rule and radius. One call matches one set of points:
for scores per class, call it once a class with the points of that class; for detection, with all points.

    mcspatnet        each label in raster order takes its nearest unused prediction; distance < radius
    ocelot           each prediction, best score first, takes its nearest unmatched label; distance <= radius
    dpa              the same pairs as ocelot
    puma             each label in file order takes the unused prediction of best score, then nearest; distance < radius
    max-cardinality  as many pairs as the radius allows; distance <= radius
    munkres          least total distance over all points, then pairs farther than the radius are dropped
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from muse_core.errors import ConfigError, DatasetError
from muse_core.geometry import Points

Rule = Literal["mcspatnet", "ocelot", "dpa", "puma", "max-cardinality", "munkres"]
RULES: tuple[Rule, ...] = get_args(Rule)

# Predictions looked at around a label. Source: k in TopoXLab/MCSpatNet, 03_eval_localization_fscore.py
MCSPATNET_NEIGHBOURS = 50

_STRICT: frozenset[Rule] = frozenset({"mcspatnet", "puma"})  # a point at exactly the radius does not count


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; add them to pool images."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of predictions that hit a label; 1 where nothing was predicted, as MCSpatNet counts it."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 1.0

    @property
    def recall(self) -> float:
        """Share of labels that were hit; 1 where there was no label."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0

    @property
    def f1(self) -> float:
        """See `f1`."""
        return f1(self.tp, self.fp, self.fn)


@dataclass(frozen=True)
class Matches:
    """The pairs found in one image.

    Attributes:
        pairs: (M, 2) int, row of the prediction and row of the label, in the order of the predictions.
        n_pred: how many predictions there were.
        n_true: how many labels there were.
    """

    pairs: NDArray[np.intp]
    n_pred: int
    n_true: int

    @property
    def counts(self) -> Counts:
        """True and false positives and misses of this image."""
        return Counts(len(self.pairs), self.n_pred - len(self.pairs), self.n_true - len(self.pairs))


def match(
    pred_xy: Points, pred_score: NDArray[np.floating], true_xy: Points, *, radius: float, rule: Rule = "ocelot"
) -> Matches:
    """Pair predictions with labels, each used at most once.

    Habits of the original scripts that change counts and are not followed here: MCSpatNet works on whole px and adds
    the labels of an image without predictions to the misses six times; CellViT adds a point at (0, 0) to an image that
    has none (`ndc.script_habits` follows both). Early versions of OCELOT's script sort by class instead of by score.

    Args:
        pred_xy: (N, 2) predicted points.
        pred_score: (N,) higher is surer; equal scores keep their order.
        true_xy: (M, 2) labelled points, in file order, in the same frame and unit as the predictions.
        radius: largest distance of a pair, in that unit; mind that some rules ask for less than it.
        rule: see the module's text.

    Returns:
        The pairs, with the numbers of points they came from.

    Raises:
        ConfigError: no such rule, or the radius is not positive.
        DatasetError: shapes that don't fit together, or coordinates or scores that are not finite.

    Source: https://github.com/TopoXLab/MCSpatNet (03_eval_localization_fscore.py), https://github.com/lunit-io/ocelot23algo
    (evaluation/eval.py), https://github.com/windygoo/PromptNucSeg (prompter/utils.py), https://github.com/tueimage/
    PUMA-challenge-eval-track1 (eval_nuclei.py), https://github.com/TIO-IKIM/CellViT (cell_segmentation/utils/tools.py).
    """
    if rule not in RULES:
        raise ConfigError(f"matching rule {rule!r} is unknown; give one of {', '.join(RULES)}")
    if not radius > 0:
        raise ConfigError(f"matching radius {radius} must be above 0")
    pred = _checked_points(pred_xy, "predicted")
    true = _checked_points(true_xy, "labelled")
    score = np.asarray(pred_score, np.float64)
    if score.shape != (len(pred),) or not np.isfinite(score).all():
        raise DatasetError(
            f"scores of shape {score.shape} for {len(pred)} predictions; one finite score a prediction needed"
        )
    pairs = _munkres(pred, true, radius) if rule == "munkres" else _near(pred, score, true, radius, rule)
    return Matches(pairs[np.argsort(pairs[:, 0])], len(pred), len(true))


def pool(matches: Iterable[Matches]) -> Counts:
    """Counts summed over images, as every rule but PUMA's scores them."""
    return sum((one.counts for one in matches), Counts())


def mean_f1(matches: Iterable[Matches]) -> float:
    """F1 of each image, averaged as PUMA does for a class: an image with neither label nor prediction adds 0."""
    scores = [one.counts.f1 for one in matches]
    return float(np.mean(scores)) if scores else 0.0


def f1(tp: int, fp: int, fn: int) -> float:
    """Harmonic mean of precision and recall, 0..1; 0 where there is neither label nor prediction."""
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def _near(pred: Points, score: NDArray[np.float64], true: Points, radius: float, rule: Rule) -> NDArray[np.intp]:
    """Pairs by the rules that only ever look at points within the radius of each other."""
    pred_rows, true_rows, distance = _edges(pred, true, radius, strict=rule in _STRICT)
    if rule == "max-cardinality":
        return _max_cardinality(pred_rows, true_rows, (len(pred), len(true)))
    if rule == "mcspatnet":
        row, column = np.floor(true[true_rows, ::-1]).T
        order = np.lexsort((distance, true_rows, column, row))
        order = order[_rank_in_group(true_rows[order]) < MCSPATNET_NEIGHBOURS]
    elif rule == "puma":
        order = np.lexsort((distance, -score[pred_rows], true_rows))
    else:
        order = np.lexsort((true_rows, distance, pred_rows, -score[pred_rows]))
    return _first_come(pred_rows[order], true_rows[order], (len(pred), len(true)))


def _edges(
    pred: Points, true: Points, radius: float, *, strict: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """All (prediction, label) pairs within the radius, with their distances, by prediction and then label."""
    if not len(pred) or not len(true):
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    # A hair more than the radius, so that the comparison below alone decides on the rim.
    found = KDTree(pred).sparse_distance_matrix(KDTree(true), radius * (1 + 1e-9), output_type="ndarray")
    found = found[np.lexsort((found["j"], found["i"]))]
    distance = np.linalg.norm(pred[found["i"]] - true[found["j"]], axis=1)
    keep = distance < radius if strict else distance <= radius
    return found["i"][keep], found["j"][keep], distance[keep]


def _first_come(pred_rows: NDArray[np.intp], true_rows: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.intp]:
    """Walk the edges in order and keep each whose two ends are both still free: every greedy rule, given its order."""
    pred_free, true_free = [True] * shape[0], [True] * shape[1]
    pairs = []
    for i, j in zip(pred_rows.tolist(), true_rows.tolist(), strict=True):
        if pred_free[i] and true_free[j]:
            pred_free[i] = true_free[j] = False
            pairs.append((i, j))
    return np.array(pairs, np.intp).reshape(-1, 2)


def _rank_in_group(sorted_groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Position of each item within its run of equal values: [4, 4, 7, 7, 7] -> [0, 1, 0, 1, 2]."""
    rows = np.arange(len(sorted_groups))
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    return rows - np.repeat(starts, np.diff(starts, append=len(rows)))


def _max_cardinality(
    pred_rows: NDArray[np.intp], true_rows: NDArray[np.intp], shape: tuple[int, int]
) -> NDArray[np.intp]:
    graph = csr_array((np.ones(len(pred_rows), bool), (pred_rows, true_rows)), shape=shape)
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = np.flatnonzero(partner >= 0)
    return np.column_stack([matched, partner[matched]]).astype(np.intp)


def _munkres(pred: Points, true: Points, radius: float) -> NDArray[np.intp]:
    distance = cdist(pred, true)
    rows, columns = linear_sum_assignment(distance)
    near = distance[rows, columns] <= radius
    return np.column_stack([rows[near], columns[near]]).astype(np.intp)


def _checked_points(xy: Points, whose: str) -> NDArray[np.float64]:
    points = np.asarray(xy, np.float64)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2:
        raise DatasetError(f"{whose} points of shape {points.shape}; (N, 2) x, y needed")
    if not np.isfinite(points).all():
        raise DatasetError(f"{whose} points are not all finite")
    return points
