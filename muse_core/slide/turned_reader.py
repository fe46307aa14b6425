"""A picture that is stored turned or mirrored, read as it is meant to be seen."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from muse_core.images.orientation import STEPS, upright
from muse_core.images.pixels import Pixels
from muse_core.slide.info import Level
from muse_core.slide.reader import Corner, Reader, Source


class TurnedReader:
    """A handle whose rectangles are those of the whole picture turned by its orientation tag."""

    def __init__(self, stored: Reader, orientation: int) -> None:
        """Args: stored: reads the picture as it is stored; orientation: the TIFF tag's value, 2 to 8."""
        self._stored = stored
        self._orientation = orientation
        self._swapped, self._columns_reversed, self._rows_reversed = STEPS[orientation]
        self.name = stored.name
        self.source = turned_source(stored.source, orientation)

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """See `Reader.read`."""
        stored = self._stored.read(*self._place(corner, width, height, level), level=level)
        return upright(stored, self._orientation)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """See `Reader.read_many`."""
        for corner in corners:
            yield self.read(corner, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """See `Reader.read_associated`; other images have orientations of their own, which are left."""
        return self._stored.read_associated(name)

    def close(self) -> None:
        """Close the handle."""
        self._stored.close()

    def _place(self, corner: Corner, width: int, height: int, level: int) -> tuple[Corner, int, int]:
        """The rectangle as it is stored."""
        size = self.source.levels[level]
        x = size.width - corner[0] - width if self._columns_reversed else corner[0]
        y = size.height - corner[1] - height if self._rows_reversed else corner[1]
        return ((y, x), height, width) if self._swapped else ((x, y), width, height)


def turned_source(source: Source, orientation: int) -> Source:
    """The source of the turned picture: where axes are swapped, so are sides, scales, tiles and µm/px."""
    if not STEPS[orientation][0]:
        return source
    levels = tuple(
        Level(one.height, one.width, one.downsample_y, one.downsample_x, one.tile_height, one.tile_width)
        for one in source.levels
    )
    mpp = tuple(replace(one, x=one.y, y=one.x) for one in source.mpp_candidates)
    return replace(source, levels=levels, mpp_candidates=mpp)
