"""What the tissue is like, in coarse cells: how much of it there is, how rich in nuclei, of what colour and texture."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from muse_core.geometry import Frame
from muse_core.images.stain import estimate_stains, separate

CELL_UM = 32.0  # a few nuclei across: fine beside a ROI, coarse enough to be few
_TEXTURE_FLOOR = 0.2  # optical density; keeps the noise of pale areas from passing for texture
_FEATURES = ("haematoxylin", "haematoxylin texture", "counterstain", "counterstain texture")


@dataclass(frozen=True)
class TissueMaps:
    """Sums over coarse cells.

    Attributes:
        tissue: float32 (rows, columns), share of each cell that is tissue, 0..1.
        features: float32 (rows, columns, 4), per cell means over tissue times that share: amount of haematoxylin, its
            texture, amount of counterstain, its texture.
        frame: where the cells lie on level 0.
    """

    tissue: NDArray[np.float32]
    features: NDArray[np.float32]
    frame: Frame


def tissue_maps(
    overview: NDArray[np.uint8],
    polygons: Sequence[Polygon],
    frame: Frame,
    *,
    mpp: float,
    background: tuple[float, float, float],
) -> TissueMaps:
    """Summarise an overview cell by cell.

    Args:
        overview: uint8 (H, W, 3) RGB of the whole slide.
        polygons: the tissue, level-0 px.
        frame: where the overview's pixels lie on level 0.
        mpp: µm/px of the overview.
        background: RGB 0..255 of the glass.
    """
    side = max(1, round(CELL_UM / mpp))
    mask = rasterise(polygons, frame, overview.shape[0], overview.shape[1])
    thin = slice(None, None, max(1, int((overview.size / 3e6) ** 0.5)))  # about a million pixels fix two stain vectors
    stains = estimate_stains(overview[thin, thin][mask[thin, thin]], background=background)
    rows, columns = -(-overview.shape[0] // side), -(-overview.shape[1] // side)
    tissue = np.zeros((rows, columns), np.float32)
    features = np.zeros((rows, columns, len(_FEATURES)), np.float32)
    strip = max(1, 256 // side)  # cell rows at once: floats of a strip, never of the whole overview
    for row in range(0, rows, strip):
        part = slice(row * side, (row + strip) * side)
        amounts = separate(np.ascontiguousarray(overview[part]), stains)
        inside = _blocks(mask[part].astype(np.float32)[..., None], side, columns)
        sums = _blocks(_with_texture(amounts) * mask[part][..., None], side, columns)
        tissue[row : row + strip] = inside[..., 0]
        features[row : row + strip] = sums
    return TissueMaps(
        tissue, features, Frame(frame.x_level0, frame.y_level0, frame.scale_x * side, frame.scale_y * side)
    )


def rasterise(polygons: Sequence[Polygon], frame: Frame, height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels of a grid have their centre in a polygon (level-0 px), holes left out; bool (height, width)."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in sorted(polygons, key=lambda polygon: -polygon.area):  # islands in holes are drawn after the holes
        for ring, value in [(polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)]:
            xy = frame.from_level0(np.asarray(ring.coords)[:, :2]) - 0.5  # OpenCV counts from pixel centres
            cv2.fillPoly(mask, [np.round(xy * 16).astype(np.int32)], value, shift=4)
    return mask.astype(bool)


def window_sums(
    cells: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64], width: float, height: float
) -> NDArray[np.float64]:
    """Sum of a map over windows, cells cut by a window's edge in proportion.

    Args:
        cells: float32 (rows, columns) or (rows, columns, K).
        x: (N,) left edges in cells.
        y: (M,) top edges in cells.
        width: of every window, in cells.
        height: of every window, in cells.

    Returns:
        float64 (M, N) or (M, N, K): every y with every x.
    """
    below = _integrate(cells.astype(np.float64), y, y + height)
    return np.moveaxis(_integrate(np.moveaxis(below, 1, 0), x, x + width), 0, 1)


def _integrate(
    values: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integrals along the first axis of a function that is constant within each unit step."""
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])

    def up_to(at: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.clip(at, 0, len(values))
        low = np.minimum(at.astype(np.int64), len(values) - 1)
        share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(total[low] * (1 - share) + total[low + 1] * share)

    return up_to(end) - up_to(begin)


def _with_texture(amounts: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 2) stain amounts to (H, W, 4): each amount and its texture, the relative difference to its surroundings.

    At 4 µm/px a nucleus is two or three pixels, so that texture follows the number of nuclei better than the amount of
    stain does (rank correlation 0.88 against 0.40 over 512 µm windows of annotated H&E).
    """
    local = cv2.blur(amounts, (3, 3))
    texture = np.abs(amounts - local) / (local + _TEXTURE_FLOOR)
    return np.stack([amounts[..., 0], texture[..., 0], amounts[..., 1], texture[..., 1]], axis=-1)


def _blocks(values: NDArray[np.float32], side: int, columns: int) -> NDArray[np.float32]:
    """Means over square blocks, (H, W, K) -> (ceil(H / side), columns, K); what lies beyond the edge counts as 0."""
    rows = -(-values.shape[0] // side)
    padded = np.zeros((rows * side, columns * side, values.shape[2]), np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    means = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)  # whole blocks: their exact means
    return np.asarray(means, np.float32).reshape(rows, columns, -1)
