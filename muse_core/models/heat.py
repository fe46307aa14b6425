"""Nuclei to heat maps, for training, and heat maps to nuclei, for inference. Numpy only.

A heat map has half the image's resolution: the centre of its top-left pixel lies at (1, 1) of the image's frame.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

OUTPUT_STRIDE = 2  # px of the image a heat-map px
NO_CLASS = -100  # what cross entropy leaves out

_REACH = 6  # heat-map px around a nucleus that its bump is drawn in
_CLASS_FROM = 0.2  # heat above which a pixel also carries the nucleus' class
_SMOOTHING = 0.8  # heat-map px; takes the steps of bfloat16 out, so that a bump has one top
_CENTROID_REACH = 5  # heat-map px around a top whose heat says where the nucleus' middle is
MIDDLE_SIGMA_PX = 4.0  # px of the image; how fast that heat's say falls off


def draw_heat(
    xy: NDArray[np.floating], class_ids: NDArray[np.int64], side_px: int, *, sigma_px: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A Gaussian bump of height 1 at each nucleus, the higher one where two meet, and the class of the higher one.

    Args:
        xy: (N, 2) x, y in px of the image.
        class_ids: (N,), negative where a nucleus' class is not known.
        side_px: of the square image; even.
        sigma_px: of the bump, in px of the image.

    Returns:
        heat: (side / 2, side / 2) float32, 0..1.
        classes: (side / 2, side / 2) int64, `NO_CLASS` away from nuclei.
    """
    side = side_px // OUTPUT_STRIDE
    heat = np.zeros((side, side), np.float32)
    classes = np.full((side, side), NO_CLASS, np.int64)
    for (x, y), class_id in zip(np.asarray(xy) / OUTPUT_STRIDE, class_ids, strict=True):
        columns = np.arange(max(0, int(x) - _REACH), min(side, int(x) + _REACH + 1))
        rows = np.arange(max(0, int(y) - _REACH), min(side, int(y) + _REACH + 1))
        if not len(columns) or not len(rows):
            continue
        squared = (columns + 0.5 - x)[None, :] ** 2 + (rows + 0.5 - y)[:, None] ** 2
        bump = np.exp(-squared / (2 * (sigma_px / OUTPUT_STRIDE) ** 2)).astype(np.float32)
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        classes[window][(bump > heat[window]) & (bump > _CLASS_FROM)] = class_id if class_id >= 0 else NO_CLASS
        np.maximum(heat[window], bump, out=heat[window])
    return heat, classes


def find_peaks(
    heat: NDArray[np.float32], *, min_heat: float, min_distance_px: float, middle_sigma_px: float = MIDDLE_SIGMA_PX
) -> NDArray[np.float32]:
    """The tops of a heat map, to a fraction of a pixel, the higher of two that are too close.

    Args:
        heat: (H, W) float32, 0..1.
        min_heat: tops below this are left out.
        min_distance_px: of two tops nearer than this, in px of the image, the lower one goes.
        middle_sigma_px: a nucleus lies at the middle of the heat about its top; this is how far about, px of the image.

    Returns:
        (N, 3) float32: x, y in px of the image, and the smoothed heat there; highest first.
    """
    smooth = cv2.GaussianBlur(np.pad(heat, 1), (0, 0), _SMOOTHING)  # the zeros around make the rim no top of its own
    top = smooth >= np.maximum(cv2.dilate(smooth, np.ones((5, 5), np.uint8)), min_heat)
    top[[0, -1], :] = top[:, [0, -1]] = False
    rows, columns = np.nonzero(top)
    value = smooth[rows, columns]
    order = np.lexsort((columns, rows, -value))
    order = order[_thinned(np.column_stack([columns, rows])[order], min_distance_px / OUTPUT_STRIDE)]
    xy = _centroids(heat, smooth, rows[order], columns[order], sigma=middle_sigma_px / OUTPUT_STRIDE)
    return np.column_stack([xy, value[order]]).astype(np.float32)


def _centroids(
    heat: NDArray[np.float32],
    smooth: NDArray[np.float32],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    *,
    sigma: float,
) -> NDArray[np.floating]:
    """The middle of the heat around each top, (N, 2) x, y in px of the image; rows and columns are of `smooth`.

    A long or large nucleus has a long bump, and its dot may be anywhere along it: the middle is nearer than the top.
    """
    reach = np.arange(-_CENTROID_REACH, _CENTROID_REACH + 1)
    padded = np.pad(heat, _CENTROID_REACH)
    around = np.lib.stride_tricks.sliding_window_view(padded, (len(reach), len(reach)))[
        rows - 1, columns - 1
    ]  # (N, 11, 11)
    log = np.log(np.maximum(smooth, 1e-9))  # the log of a Gaussian is a parabola: three points give its top exactly
    at = log[rows, columns]
    top_x = _parabola_top(log[rows, columns - 1], at, log[rows, columns + 1])
    top_y = _parabola_top(log[rows - 1, columns], at, log[rows + 1, columns])
    near_x = np.exp(-((reach - top_x[:, None]) ** 2) / (2 * sigma**2))
    near_y = np.exp(-((reach - top_y[:, None]) ** 2) / (2 * sigma**2))
    mass = around * near_y[:, :, None] * near_x[:, None, :]
    total = np.maximum(mass.sum(axis=(1, 2)), 1e-9)
    dx, dy = (mass.sum(axis=1) @ reach) / total, (mass.sum(axis=2) @ reach) / total
    return np.asarray(np.column_stack([columns - 0.5 + dx, rows - 0.5 + dy]) * OUTPUT_STRIDE)


def _parabola_top(
    before: NDArray[np.float32], at: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Where a parabola through three neighbours is highest, -0.5..0.5 from the middle one."""
    bend = before - 2 * at + after
    flat = bend > -1e-6
    return np.asarray(
        np.clip(np.where(flat, 0, 0.5 * (before - after) / np.where(flat, 1, bend)), -0.5, 0.5), np.float32
    )


def _thinned(points: NDArray[np.intp], min_distance: float) -> NDArray[np.intp]:
    """Which of points, best first, stay when each goes that has a better one nearer than the distance."""
    keep = np.ones(len(points), bool)
    if len(points) > 1:
        pairs = KDTree(points).query_pairs(min_distance, output_type="ndarray")
        for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():  # rows are ordered: better < worse
            keep[worse] &= not keep[better]
    return np.flatnonzero(keep)
