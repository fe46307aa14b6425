"""Of points that are too close to one another, the surest."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree


def surest_apart(xy: NDArray[np.floating], score: NDArray[np.floating], *, min_distance: float) -> NDArray[np.intp]:
    """Rows of the points that stay when each goes that has a surer one, itself staying, nearer than the distance.

    Ties of score go by y, then x, so that the answer does not depend on the order of the rows.

    Args:
        xy: (N, 2).
        score: (N,).
        min_distance: in the unit of `xy`.

    Returns:
        Rows that stay, the surest first.
    """
    order = np.lexsort((xy[:, 0], xy[:, 1], -score))
    keep = np.ones(len(order), bool)
    if len(order) > 1:
        pairs = KDTree(xy[order]).query_pairs(min_distance, output_type="ndarray")  # (M, 2) rows of `order`, i < j
        for surer, other in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
            keep[other] &= not keep[surer]
    return order[keep]
