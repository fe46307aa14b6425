"""What a reader of slide files has to offer, and what the readers share."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from muse_core.geometry import Box
from muse_core.images.pixels import Pixels
from muse_core.slide.info import Level, Mpp

Corner = tuple[int, int]  # x, y in px of one level


@dataclass(frozen=True)
class Source:
    """What one reader says about a file.

    Attributes:
        vendor: the format's vendor in the reader's words.
        levels: finest first.
        mpp_candidates: every µm/px figure the reader found, unjudged.
        bounds_level0: the scanned part, where named.
        associated: names of associated images.
        notes: what the format says besides that a user should know, a sentence each.
    """

    vendor: str
    levels: tuple[Level, ...]
    mpp_candidates: tuple[Mpp, ...]
    bounds_level0: Box | None = None
    associated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """One open handle on one file. Used by one thread at a time; after a failed read it is closed and replaced."""

    name: str
    source: Source

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """Decode a rectangle that lies wholly inside the level.

        Args:
            corner: top-left x, y in px of `level`.
            width: px of `level`.
            height: px of `level`.
            level: 0 is the finest.

        Returns:
            (height, width, 3) uint8 RGB, the caller's own.

        Raises:
            SlideReadError: it cannot be decoded.
        """
        ...

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """The same for many corners, in order; memory stays bounded to a few regions ahead."""
        ...

    def read_associated(self, name: str) -> Pixels:
        """An associated image, (H, W, 3) uint8 RGB."""
        ...

    def close(self) -> None:
        """Give the file handle and its caches back."""
        ...


def make_levels(sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels with exact downsamples from their (width, height) and tile (width, height), finest first."""
    width0, height0 = sizes[0]
    return tuple(
        Level(width, height, snap_downsample(width0, width), snap_downsample(height0, height), *tile)
        for (width, height), tile in zip(sizes, tiles, strict=True)
    )


def snap_downsample(length_level0: int, length: int) -> float:
    """Level-0 px per level px along one axis: the integer that explains the length, else the plain ratio.

    A pyramid is made by whole factors and its lengths by floor, ceil or rounding: 4443 px halved is 2221 px, and the
    true scale is then 2, not 4443 / 2221 = 2.0005, which would shift the far edge by a level-0 pixel.
    """
    ratio = length_level0 / length
    factor = round(ratio)
    if factor >= 1 and math.floor(length_level0 / factor) <= length <= math.ceil(length_level0 / factor):
        return float(factor)
    return ratio
