"""Whether two rectangles of pixels show the same at two scales: corners, edges and what has structure."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.images.pixels import Pixels
from muse_core.slide.info import Level

_PATCH_PX = 32  # side of a place in px of the coarser level
_MOST_FINE_PX = 1024  # side of the same place in px of the finer level
# Corners, middles of the edges, the centre and four places between, as fractions of the room there is.
_GRID = tuple((across, down) for down in (0.0, 0.5, 1.0) for across in (0.0, 0.5, 1.0))
_PLACES = (*_GRID, (0.27, 0.31), (0.71, 0.29), (0.31, 0.73), (0.69, 0.67))
_LOOKED_AT = 6  # places compared: those with most structure, two corners among them
_FLAT = 4.0  # standard deviation in grey levels; flatter places are compared by their mean
_SAME_MEAN = 16.0  # grey levels; glass of 243 and the white of a tile left out are 12 apart
_SAME_STRUCTURE = 0.6  # correlation; levels made by averaging have 0.95, by leaving out pixels 0.7, other pictures 0.1
_SAME_PART = 0.7  # of the places
_NO_STRUCTURE = 0.5  # the score of what is flat everywhere: better than contradicted, worse than confirmed

Read = Callable[[tuple[int, int], int, int], Pixels]


@dataclass(frozen=True)
class Verdict:
    """Whether two levels show the same.

    Attributes:
        same: they do, as far as could be seen.
        score: how well, for choosing among guesses of the scale.
        words: what was seen, shortly.
    """

    same: bool
    score: float
    words: str


def compare_levels(coarse: Level, read_coarse: Read, fine: Level, read_fine: Read) -> Verdict:
    """Compare a level with a finer one at several places.

    Args:
        coarse: the level in question.
        read_coarse: reads (corner, width, height) px of it.
        fine: a level that is known to be one.
        read_fine: the same for it.
    """
    scale = (coarse.downsample_x / fine.downsample_x, coarse.downsample_y / fine.downsample_y)
    side = min(_PATCH_PX, coarse.width, coarse.height, max(4, int(_MOST_FINE_PX / max(scale))))
    found = []
    for corner in _corners(coarse, side, read_coarse):
        patch = _read(read_coarse, corner, side, side)
        under = _under(corner, side, fine, scale, read_fine)
        if patch is not None and under is not None:
            found.append(_agreement(patch, under))
    if not found:
        return Verdict(same=True, score=0.0, words="nothing could be compared")
    scores = [score for score, _ in found if score is not None]
    agreeing = sum(ok for _, ok in found)
    return Verdict(
        same=agreeing >= _SAME_PART * len(found),
        score=float(np.mean(scores)) if scores else _NO_STRUCTURE,
        words=f"{agreeing} of {len(found)} places agree",
    )


def _corners(level: Level, side: int, read: Read) -> list[tuple[int, int]]:
    """Where to compare: the places with most structure, and the first and last corner."""
    corners = list(
        dict.fromkeys(
            (int((level.width - side) * across), int((level.height - side) * down)) for across, down in _PLACES
        )
    )
    patches = [_read(read, corner, side, side) for corner in corners]
    structure = [-1.0 if patch is None else float(patch.std()) for patch in patches]
    order = np.argsort(structure, kind="stable")[::-1]
    chosen = [corners[at] for at in order[: _LOOKED_AT - 2]]
    return list(dict.fromkeys([*chosen, corners[0], corners[min(len(_GRID), len(corners)) - 1]]))


def _under(
    corner: tuple[int, int], side: int, fine: Level, scale: tuple[float, float], read: Read
) -> NDArray[np.float32] | None:
    """What lies there in the finer level, averaged to the coarser one's pixels."""
    x0, y0 = int(corner[0] * scale[0]), int(corner[1] * scale[1])
    x1 = min(fine.width, max(x0 + 1, round((corner[0] + side) * scale[0])))
    y1 = min(fine.height, max(y0 + 1, round((corner[1] + side) * scale[1])))
    if x0 >= x1 or y0 >= y1:
        return None
    patch = _read(read, (x0, y0), x1 - x0, y1 - y0)
    if patch is None:
        return None
    return np.asarray(cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _read(read: Read, corner: tuple[int, int], width: int, height: int) -> NDArray[np.float32] | None:
    """Pixels; None where a tile is broken, which tells nothing of the level."""
    try:
        return np.asarray(read(corner, width, height), np.float32)
    except SlideReadError:
        return None


def _agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float | None, bool]:
    """How alike two patches are, 0 to 1, None where both are flat; and whether that is enough.

    They are blurred a little, for filters differ.
    """
    difference = float(np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max())
    one, other = (np.asarray(cv2.blur(patch.mean(axis=2), (3, 3)), np.float32) for patch in (one, other))
    if max(one.std(), other.std()) < _FLAT:
        return None, difference < _SAME_MEAN
    if min(one.std(), other.std()) < 1e-3:
        return 0.0, False
    alike = float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    return max(0.0, alike), alike > _SAME_STRUCTURE
