"""Nuclei at the borders of tiles: each is counted once, although two tiles saw it, each a little elsewhere."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleusPoints


def place_in_core(xy: NDArray[np.floating], core: Box, band: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points (N, 2) lie in a half-open core, and which no farther than `band` from its border, either side."""
    x, y = np.asarray(xy, np.float64).reshape(-1, 2).T
    owned = (x >= core.x) & (x < core.right) & (y >= core.y) & (y < core.bottom)
    around = (x >= core.x - band) & (x < core.right + band) & (y >= core.y - band) & (y < core.bottom + band)
    deep = (x >= core.x + band) & (x < core.right - band) & (y >= core.y + band) & (y < core.bottom - band)
    return owned, around & ~deep


def settle_seams(nuclei: NucleusPoints, xy: NDArray[np.floating], distance: float) -> NDArray[np.bool_]:
    """Which nuclei at seams stay: each once.

    A nucleus belongs to the tile in whose core it lies. Tiles see it at places that differ a little, so that both may
    claim it or neither: of points of different tiles nearer than `distance` one stays, an owned one first, then the
    surer, then that of the earlier tile. A point that its tile does not own stays only where it stands for a nucleus
    that the other tile does not own either.

    Args:
        nuclei: of all tiles that share a border, with `tile` and `owned`.
        xy: (N, 2) where they are, in any one frame of the slide.
        distance: in that frame; less than nuclei are apart.
    """
    tile, owned = nuclei.tile, nuclei.owned
    assert tile is not None
    assert owned is not None
    order = np.lexsort((xy[:, 0], xy[:, 1], tile, -nuclei.score, ~owned))
    pairs = KDTree(xy).query_pairs(distance, output_type="ndarray") if len(order) else np.empty((0, 2), int)
    pairs = pairs[tile[pairs[:, 0]] != tile[pairs[:, 1]]]
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    keep = owned.copy()
    keep[pairs.ravel()] = True  # seen by two tiles: whoever owns it, it is there
    ranked = np.sort(rank[pairs], axis=1)
    for first, second in ranked[np.lexsort((ranked[:, 1], ranked[:, 0]))].tolist():  # better before worse
        if keep[order[first]]:
            keep[order[second]] = False
    return keep
