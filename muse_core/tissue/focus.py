"""Which parts of a slide are out of focus, judged on a grid of small windows at nuclear resolution.

An overview cannot tell: at 8 µm/px a nucleus is one pixel, sharp or not. One window a cell of the grid is enough, since
focus drifts slowly over a slide.
"""

import logging
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.tissue.settings import TissueSettings

logger = logging.getLogger(__name__)

ReadWindow = Callable[[float, float], NDArray[np.uint8]]  # centre (x_um, y_um) -> uint8 (side, side, 3)

_MIN_TISSUE_SHARE = 0.5  # of a cell of the grid, for its window to show tissue


def focus_of(window: NDArray[np.uint8]) -> float:
    """How sharp a window of tissue at 1 µm/px is: contrast of 1 to 2 px details relative to that of 2 to 8 px details.

    Pale and dark stains score alike, since both contrasts grow with the stain. Measured on sharp H&E, frozen and IHC
    tissue: 0.30 to 0.77; blurred by a Gaussian of 2 µm: 0.15 to 0.35; of 3 µm, where nuclei lose their outline: 0.11 to
    0.22.

    Args:
        window: uint8 (H, W, 3) RGB.

    Returns:
        A ratio >= 0.
    """
    green = window[..., 1].astype(np.float32)  # both stains absorb green
    fine, middle, coarse = (cv2.GaussianBlur(green, (0, 0), sigma) for sigma in (1.0, 2.0, 8.0))
    # One grey level is added below, so that an even surface without any contrast scores 0, not noise over noise.
    return float((fine - middle).std() / ((middle - coarse).std() + 1.0))


def blurred_mask(
    tissue: NDArray[np.bool_], mpp: float, read_window: ReadWindow, settings: TissueSettings
) -> NDArray[np.bool_]:
    """The parts of a tissue mask that are out of focus.

    Args:
        tissue: bool (H, W) overview px.
        mpp: µm/px of the mask.
        read_window: reads the window around a point given in µm.
        settings: least sharpness, step and number of windows.

    Returns:
        bool (H, W), whole cells of the grid. A cell counts as blurred when it is and two of its neighbours are (or all,
        if it has fewer): a single soft cell in sharp surroundings is mucus or necrosis. Cells with too little tissue to
        judge, and those that cannot be read, follow the majority of their neighbours.
    """
    step_px, shares = _grid(tissue, mpp, settings)
    sharpness = np.full(shares.shape, np.nan)
    for row, column in zip(*np.nonzero(shares >= _MIN_TISSUE_SHARE), strict=True):
        y, x = row * step_px, column * step_px
        # Around the middle of the cell's tissue: an edge to glass within the window would look sharp.
        ys, xs = np.nonzero(tissue[y : y + step_px, x : x + step_px])
        try:
            window = read_window((x + xs.mean() + 0.5) * mpp, (y + ys.mean() + 0.5) * mpp)
        except SlideReadError as error:
            logger.warning("focus not judged: %s", error)
            continue
        sharpness[row, column] = focus_of(window)
    blurred = _with_neighbours(sharpness < settings.min_focus, ~np.isnan(sharpness))
    rows, columns = (np.arange(side) // step_px for side in tissue.shape)
    return np.asarray(blurred[np.ix_(rows, columns)])


def _grid(tissue: NDArray[np.bool_], mpp: float, settings: TissueSettings) -> tuple[int, NDArray[np.float32]]:
    """The step in overview px, and each cell's share of tissue (rows, columns), few enough cells to read them all."""
    step_px = max(1, round(settings.focus_step_um / mpp))
    while True:
        rows, columns = (math.ceil(side / step_px) for side in tissue.shape)
        padded = np.zeros((rows * step_px, columns * step_px), np.float32)
        padded[: tissue.shape[0], : tissue.shape[1]] = tissue
        shares = padded.reshape(rows, step_px, columns, step_px).mean(axis=(1, 3))
        count = int((shares >= _MIN_TISSUE_SHARE).sum())
        if count <= settings.max_focus_windows:
            return step_px, shares
        step_px = max(step_px + 1, int(step_px * math.sqrt(count / settings.max_focus_windows)))


def _with_neighbours(blurred: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blurred cells beside two blurred ones or beside blurred ones only, and unknown ones among mostly blurred ones."""
    around = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32)
    n_blurred = cv2.filter2D(blurred.astype(np.float32), -1, around, borderType=cv2.BORDER_CONSTANT)
    n_known = cv2.filter2D(known.astype(np.float32), -1, around, borderType=cv2.BORDER_CONSTANT)
    settled = blurred & (n_blurred >= np.minimum(2, n_known))
    followers = ~known & (n_blurred > n_known / 2)
    return np.asarray(settled | followers)
