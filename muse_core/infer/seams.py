"""Nuclei at the borders of tiles: each is counted once, although two tiles saw it, each a little elsewhere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from muse_core.geometry import Box


@dataclass(frozen=True, eq=False)
class SeamPoints:
    """Nuclei near a border of the tile that found them, on its own side or just across.

    Attributes:
        xy: (N, 2) float64, any one frame of the slide.
        score: (N,) float32.
        tile: (N,) int64, the number of the tile that found it.
        owned: (N,) bool, whether it lies in that tile's core.
    """

    xy: NDArray[np.float64]
    score: NDArray[np.float32]
    tile: NDArray[np.int64]
    owned: NDArray[np.bool_]


def place_in_core(xy: NDArray[np.floating], core: Box, band: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points (N, 2) lie in a half-open core, and which no farther than `band` from its border, either side."""
    x, y = np.asarray(xy, np.float64).reshape(-1, 2).T
    owned = (x >= core.x) & (x < core.right) & (y >= core.y) & (y < core.bottom)
    around = (x >= core.x - band) & (x < core.right + band) & (y >= core.y - band) & (y < core.bottom + band)
    deep = (x >= core.x + band) & (x < core.right - band) & (y >= core.y + band) & (y < core.bottom - band)
    return owned, around & ~deep


def settle_seams(points: SeamPoints, distance: float) -> NDArray[np.bool_]:
    """Which points stay: each nucleus once.

    A nucleus belongs to the tile in whose core it lies. Tiles see it at places that differ a little, so that both may
    claim it or neither: of points of different tiles nearer than `distance` one stays, an owned one first, then the
    surer, then that of the earlier tile. A point that its tile does not own stays only where it stands for a nucleus
    that the other tile does not own either.

    Args:
        points: of all tiles that share a border.
        distance: in the frame of the points; less than nuclei are apart.
    """
    order = np.lexsort((points.xy[:, 0], points.xy[:, 1], points.tile, -points.score, ~points.owned))
    pairs = KDTree(points.xy).query_pairs(distance, output_type="ndarray") if len(order) else np.empty((0, 2), int)
    pairs = pairs[points.tile[pairs[:, 0]] != points.tile[pairs[:, 1]]]
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    keep = points.owned.copy()
    keep[pairs.ravel()] = True  # seen by two tiles: whoever owns it, it is there
    ranked = np.sort(rank[pairs], axis=1)
    for first, second in ranked[np.lexsort((ranked[:, 1], ranked[:, 0]))].tolist():  # better before worse
        if keep[order[first]]:
            keep[order[second]] = False
    return keep
