"""How unlike the tissue that its model knows a slide is, from a few windows around its nuclei."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.models.familiar import WINDOW_UM, Doubt, Familiar, describe, doubt_of, glass_of
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.slide import Slide

_WINDOWS = 32  # a slide: read in a fraction of a second, and a share is good to within 0.09
_LEAST_WINDOWS, _OVERLAP = 4, 2.0  # an image that few windows cover is not looked at again and again
_SIDE_PX = round(WINDOW_UM / NETWORK_MPP)
_COLUMNS = ["x_level0", "y_level0", "score"]


def slide_doubt(
    slide: Slide, staged: Sequence[Path], familiar: Familiar, glass: Sequence[float] | None
) -> Doubt | None:
    """Look at windows around nuclei that are spread over all that were found.

    Args:
        slide: open.
        staged: Parquet files of its nuclei.
        familiar: what the model knows.
        glass: RGB 0..255 of the slide's glass; None where it is not known: each window's brightest pixels serve.

    Returns:
        None where no window with a nucleus can be read.
    """
    windows, info = [], slide.info
    most = windows_on(info.width_level0 * info.mpp.x, info.height_level0 * info.mpp.y)
    for x_level0, y_level0, nuclei in _chosen(staged, most):
        described = _window(slide, (x_level0, y_level0), nuclei, glass)
        if described is not None:
            windows.append(described)
    return doubt_of(np.stack(windows), familiar) if windows else None


def windows_on(width_um: float, height_um: float) -> int:
    """How many windows of a slide are looked at: so many that they would cover a small one twice, 32 of any larger one.

    Args:
        width_um, height_um: of the slide.
    """
    covering = math.ceil(_OVERLAP * width_um * height_um / WINDOW_UM**2)
    return min(_WINDOWS, max(_LEAST_WINDOWS, covering))


def _chosen(staged: Sequence[Path], most: int) -> Iterator[tuple[float, float, NDArray[np.float64]]]:
    """Nuclei at even steps through the files, each with all of its file's: (N, 3) x, y, score."""
    counts = [pq.read_metadata(path).num_rows for path in staged]
    total = sum(counts)
    wanted = np.unique(np.linspace(0, total - 1, min(most, total)).astype(int)) if total else np.empty(0, int)
    before = 0
    for path, count in zip(staged, counts, strict=True):
        rows = wanted[(wanted >= before) & (wanted < before + count)] - before
        before += count
        if not len(rows):
            continue
        table = pq.read_table(path, columns=_COLUMNS)
        nuclei = np.column_stack([table[name].to_numpy() for name in _COLUMNS]).astype(np.float64)
        yield from ((nuclei[row, 0], nuclei[row, 1], nuclei) for row in rows.tolist())


def _window(
    slide: Slide, middle: tuple[float, float], nuclei: NDArray[np.float64], glass: Sequence[float] | None
) -> NDArray[np.float64] | None:
    """The features of the window around a nucleus; None where it cannot be read."""
    level0_px = np.array([NETWORK_MPP / slide.info.mpp.x, NETWORK_MPP / slide.info.mpp.y])  # a px of the window
    corner = np.array(middle) - _SIDE_PX / 2 * level0_px
    try:
        image = slide.read_region(float(corner[0]), float(corner[1]), _SIDE_PX, _SIDE_PX, mpp=NETWORK_MPP)
    except SlideReadError:
        return None
    xy = (nuclei[:, :2] - corner) / level0_px
    return describe(image, xy, nuclei[:, 2], mpp=NETWORK_MPP, glass=glass_of(image) if glass is None else glass)
