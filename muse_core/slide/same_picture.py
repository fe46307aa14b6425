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
# Corners, middles of the edges, the centre and eight places between, as fractions of the room there is.
_GRID = tuple((across, down) for down in (0.0, 0.5, 1.0) for across in (0.0, 0.5, 1.0))
_BETWEEN = ((0.27, 0.31), (0.71, 0.29), (0.31, 0.73), (0.69, 0.67), (0.5, 0.86), (0.86, 0.5), (0.14, 0.5), (0.5, 0.14))
_PLACES = (*_GRID, *_BETWEEN)
_LOOKED_AT = 7  # places compared: those with most structure, the flattest, two corners
_FLAT = 4.0  # standard deviation in grey levels; flatter places are compared by their mean
_SAME_GLASS = 16.0  # grey levels; glass of 243 and the white of a tile left out are 12 apart
_SAME_MEAN = 10.0  # where there is structure: levels made by averaging are 1 apart, by leaving out pixels 4
_OPPOSED_MEAN = 24.0  # one place so far apart is enough: part of the level is blank, or another picture's
_SAME_STRUCTURE = 0.6  # correlation; levels made by averaging have 0.95, by leaving out pixels 0.8, other pictures 0.1
_SAME_DETAIL = 0.5  # the same of what is left without the outlines, on average: 0.9, 0.65, 0.1 to 0.45
_DETAIL = 2.0  # standard deviation in grey levels of detail that can be compared
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
    found: list[_Place] = []
    for corner in _corners(coarse, side, read_coarse):
        patch = _read(read_coarse, corner, side, side)
        under = _under(corner, side, fine, scale, read_fine)
        if patch is not None and under is not None:
            found.append(_agreement(patch, under))
    if not found:
        return Verdict(same=True, score=0.0, words="nothing could be compared")
    structure = [one.structure for one in found if one.structure is not None]
    detail = [one.detail for one in found if one.detail is not None]
    agreeing = sum(one.agrees for one in found)
    same = agreeing >= _SAME_PART * len(found) and not any(one.is_opposed for one in found)
    words = f"{agreeing} of {len(found)} places agree"
    if detail and (alike := float(np.mean(detail))) < _SAME_DETAIL:
        same, words = False, f"its outlines agree and its details do not, {alike:.2f} alike"
    return Verdict(same=same, score=float(np.mean(structure)) if structure else _NO_STRUCTURE, words=words)


@dataclass(frozen=True)
class _Place:
    """How alike two patches of one place are.

    Attributes:
        structure: correlation of what they show, 0 to 1; None where both are flat.
        detail: the same of what is smaller than an outline; None where there is none.
        agrees: they are alike enough.
        is_opposed: they are so far apart that no level can show it.
    """

    structure: float | None
    detail: float | None
    agrees: bool
    is_opposed: bool


def _corners(level: Level, side: int, read: Read) -> list[tuple[int, int]]:
    """Where to compare: the places with most structure, the flattest, which may be blank, and two corners."""
    corners = list(
        dict.fromkeys(
            (int((level.width - side) * across), int((level.height - side) * down)) for across, down in _PLACES
        )
    )
    patches = [_read(read, corner, side, side) for corner in corners]
    structure = [-1.0 if patch is None else float(patch.std()) for patch in patches]
    order = np.argsort(structure, kind="stable")[::-1]
    chosen = [corners[at] for at in order[: _LOOKED_AT - 3]]
    inside = [at for at in range(len(_GRID), len(corners)) if structure[at] >= 0]
    flattest = [corners[min(inside, key=lambda at: structure[at])]] if inside else []
    return list(dict.fromkeys([*chosen, *flattest, corners[0], corners[min(len(_GRID), len(corners)) - 1]]))


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


def _agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> _Place:
    """How alike two patches are; they are blurred a little, for filters differ."""
    apart = float(np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max())
    opposed = apart > _OPPOSED_MEAN
    grey = [patch.mean(axis=2) for patch in (one, other)]
    smooth = [cv2.blur(patch, (3, 3)) for patch in grey]
    if max(patch.std() for patch in smooth) < _FLAT:
        return _Place(None, None, apart < _SAME_GLASS, opposed)
    structure, detail = _alike(*smooth, least=1e-3) or 0.0, None
    if min(patch.shape[0] for patch in grey) >= _PATCH_PX:
        detail = _alike(*(cv2.blur(patch, (2, 2)) - cv2.blur(patch, (9, 9)) for patch in grey), least=_DETAIL)
    return _Place(structure, detail, structure > _SAME_STRUCTURE and apart < _SAME_MEAN, opposed)


def _alike(one: NDArray[np.float32], other: NDArray[np.float32], *, least: float) -> float | None:
    """Correlation, 0 to 1; None where one of the two varies by less than `least`."""
    if min(one.std(), other.std()) < least:
        return None
    return max(0.0, float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))
