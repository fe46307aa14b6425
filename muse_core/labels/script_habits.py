"""Habits of two published scripts that change counts, followed to the letter: their numbers to the last digit.

They say more of the scripts than of the model, so they have rules of their own beside the plain ones.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from muse_core.geometry import Points
from muse_core.labels.matching import MCSPATNET_NEIGHBOURS, Counts

NO_CLASS = -1

_THRESHOLDS = 6  # an image without predictions adds its labels to the misses once for each
_LEAF_SIZE = 2048  # the script's; it decides who is first among predictions equally near


def mcspatnet_counts(xy: Points, true_xy: Points, radius_px: float) -> Counts:
    """Counts of one image as the script of MCSpatNet has them.

    It draws both sets into maps, so that points are whole px and two on one px are one, and counts the labels of an
    image without predictions six times over.

    Args:
        xy: (N, 2) predictions, continuous px.
        true_xy: (M, 2) labels, continuous px.
        radius_px: a pair must be nearer than this.

    Source: https://github.com/TopoXLab/MCSpatNet, 03_eval_localization_fscore.py.
    """
    preds, trues = _in_raster_order(xy), _in_raster_order(true_xy)
    if not len(preds) or not len(trues):
        return Counts(0, len(preds), _THRESHOLDS * len(trues))
    tree = KDTree(preds, leafsize=_LEAF_SIZE)
    _, nearest = tree.query(trues, k=MCSPATNET_NEIGHBOURS, distance_upper_bound=radius_px)
    free, hits = np.ones(len(preds), bool), 0
    for rows in nearest:  # a row of len(preds) stands for nobody
        unused = [row for row in rows[rows < len(preds)] if free[row]]
        if unused:
            free[unused[0]] = False
            hits += 1
    return Counts(hits, int(free.sum()), len(trues) - hits)


def never_empty(xy: Points, ids: NDArray[np.int64]) -> tuple[Points, NDArray[np.int64]]:
    """The points and classes of one image; where there is none, one at (0, 0) of no class.

    Source: HoVer-Net's and CellViT's scripts, https://github.com/TIO-IKIM/CellViT (inference_cellvit_experiment_*.py).
    """
    return (xy, ids) if len(xy) else (np.zeros((1, 2)), np.full(1, NO_CLASS, np.int64))


def _in_raster_order(xy: Points) -> NDArray[np.float64]:
    """(N, 2) row and column of each px that holds a point."""
    return np.unique(np.floor(np.asarray(xy, np.float64).reshape(-1, 2)[:, ::-1]), axis=0)
