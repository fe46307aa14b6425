"""Reading through tifffile: what the other readers refuse (OME-TIFF, grey, unusual codecs), a tile at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.pixels import WHITE, Pixels, to_rgb
from muse_core.slide.reader import Corner, Source, make_levels
from muse_core.slide.tiff_pages import PARSE_ERRORS, TiffLevel, TiffSummary, read_tiff_summary


class TifffileReader:
    """The segments of each level found by tifffile, read by position and decoded one by one."""

    name = "tifffile"

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            SlideReadError: it is no TIFF, or not an 8-bit image of one plane.
        """
        try:
            self._summary = read_tiff_summary(path)
            self.source = _describe(self._summary)
        except PARSE_ERRORS as error:
            raise SlideReadError(f"tifffile: {error}") from error
        self._file = path.open("rb")

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the level, (height, width, 3); see `Reader.read`."""
        return self._read(self._summary.levels[level], corner, width, height)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """One after another; see `Reader.read_many`."""
        for corner in corners:
            yield self.read(corner, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """The label, macro, ... image."""
        page = self._summary.associated[name]
        return self._read(page, (0, 0), page.width, page.height)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, page: TiffLevel, corner: Corner, width: int, height: int) -> Pixels:
        x, y = corner
        region = np.full((height, width, 3), WHITE, np.uint8)
        for row in range(y // page.tile_height, (y + height - 1) // page.tile_height + 1):
            for column in range(x // page.tile_width, (x + width - 1) // page.tile_width + 1):
                tile = self._segment(page, row * page.tiles_x + column)
                if tile is None:
                    continue
                left, top = column * page.tile_width - x, row * page.tile_height - y
                y0, y1 = max(top, 0), min(top + tile.shape[0], height)
                x0, x1 = max(left, 0), min(left + tile.shape[1], width)
                region[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return region

    def _segment(self, page: TiffLevel, index: int) -> Pixels | None:
        """One decoded tile or strip; None for one left out of the file."""
        count = int(page.bytecounts[index])
        if count == 0:
            return None
        data = os.pread(self._file.fileno(), count, int(page.offsets[index]))
        if len(data) < count:
            raise SlideReadError(
                f"tifffile: segment {index} ends after {len(data)} of {count} bytes; the file is truncated"
            )
        try:
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
            return None if decoded is None else to_rgb(decoded[0])
        except PARSE_ERRORS as error:
            raise SlideReadError(f"tifffile: segment {index}: {error}") from error


def _describe(summary: TiffSummary) -> Source:
    first = summary.levels[0]
    if not first.is_plain or first.bits != 8 or first.channels not in (1, 3, 4) or first.photometric == 3:
        raise ValueError(
            f"{first.channels} channels of {first.bits} bits (photometric {first.photometric}); "
            "8-bit RGB or grey is needed"
        )
    if first.width == 0 or first.height == 0:
        raise ValueError(f"the image is {first.width} x {first.height} px")
    sizes = [(one.width, one.height) for one in summary.levels]
    tiles = [(one.tile_width, one.tile_height) if one.is_tiled else (0, 0) for one in summary.levels]
    return Source(
        vendor=summary.kind,
        levels=make_levels(sizes, tiles),
        mpp_candidates=summary.mpp_candidates,
        associated=tuple(sorted(summary.associated)),
    )
