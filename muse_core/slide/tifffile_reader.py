"""Reading the pages of a TIFF as they were judged, a tile or strip at a time, through tifffile's codecs."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.pixels import WHITE, Pixels
from muse_core.slide.page_pixels import decode_planes, decode_segment, refusal_of
from muse_core.slide.reader import Corner, Source
from muse_core.slide.tiff_pages import PARSE_ERRORS, TiffFacts, TiffPage
from muse_core.slide.tile_check import BrokenTileError, problem_of

_CACHE_BYTES = 48 << 20  # decoded segments kept a handle: two rows of tiles of a region, or some strips


class TifffileReader:
    """The segments of some pages, read by position and decoded one by one; segments without bytes are glass."""

    name = "tifffile"

    def __init__(self, path: Path, pages: Sequence[TiffPage], source: Source, facts: TiffFacts) -> None:
        """Open the file.

        Args:
            path: the slide.
            pages: the page of each level; `refusal_of` has nothing against them.
            source: what was judged of the file; its levels may be smaller than the pages, which are then padded.
            facts: all its pages, for the other images.

        Raises:
            SlideReadError: the file cannot be opened.
        """
        self._pages = tuple(pages)
        self._named = {name: page for page, name in facts.names.items()}
        self._facts = facts
        self.source = source
        self._decoded: OrderedDict[tuple[str, int], Pixels] = OrderedDict()
        self._decoded_bytes = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SlideReadError(f"tifffile: {error.strerror or error}") from error
        self._file_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the level, (height, width, 3); see `Reader.read`."""
        return self._read(self._pages[level], corner, width, height)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """One after another; see `Reader.read_many`."""
        for corner in corners:
            yield self.read(corner, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """The label, macro, ... image."""
        page = self._facts.page(self._named[name])
        if refusal := refusal_of(page):
            raise SlideReadError(f"tifffile: the {name} {refusal}")
        return self._read(page, (0, 0), page.width, page.height)

    def close(self) -> None:
        """Close the file and let the decoded segments go."""
        self._file.close()
        self._decoded.clear()

    def _read(self, page: TiffPage, corner: Corner, width: int, height: int) -> Pixels:
        x, y = corner
        region = np.full((height, width, 3), WHITE, np.uint8)
        for index in page.segments_under(corner, width, height).tolist():
            tile = self._segment(page, index)
            if tile is None:
                continue
            row, column = divmod(index, page.tiles_x)
            left, top = column * page.tile_width - x, row * page.tile_height - y
            self._check_size(page, index, tile, right=min(page.width - column * page.tile_width, page.tile_width))
            y0, y1 = max(top, 0), min(top + tile.shape[0], height)
            x0, x1 = max(left, 0), min(left + tile.shape[1], width)
            region[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return region

    @staticmethod
    def _check_size(page: TiffPage, index: int, tile: Pixels, *, right: int) -> None:
        bottom = min(page.height - index // page.tiles_x * page.tile_height, page.tile_height)
        if tile.shape[0] < bottom or tile.shape[1] < right:
            raise SlideReadError(
                f"tifffile: segment {index} of page {page.name} holds {tile.shape[1]} x {tile.shape[0]} px where "
                f"{right} x {bottom} are needed"
            )

    def _segment(self, page: TiffPage, index: int) -> Pixels | None:
        """One decoded tile or strip; None for one left out of the file."""
        key = (page.name, index)
        if key in self._decoded:
            self._decoded.move_to_end(key)
            return self._decoded[key]
        places = [plane * page.tiles_x * page.tiles_y + index for plane in range(page.planes)]
        data = [self._bytes_of(page, place) for place in places]
        if not all(data):
            return None
        if problem := next((words for one in data if (words := problem_of(page, one))), None):
            raise BrokenTileError(f"tifffile: {_place_of(page, index)} {problem}")
        try:
            pixels = decode_segment(page, data[0], index) if page.is_plain else decode_planes(page, data, index)
        except (SlideReadError, *PARSE_ERRORS) as error:
            raise BrokenTileError(f"tifffile: {_place_of(page, index)}: {error}") from error
        self._keep(key, pixels)
        return pixels

    def _keep(self, key: tuple[str, int], pixels: Pixels) -> None:
        self._decoded[key] = pixels
        self._decoded_bytes += pixels.nbytes
        while self._decoded_bytes > _CACHE_BYTES and len(self._decoded) > 1:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes

    def _bytes_of(self, page: TiffPage, index: int) -> bytes:
        count = int(page.bytecounts[index])
        if count == 0:
            return b""
        offset = int(page.offsets[index])
        if offset + count > self._file_bytes:
            there = max(0, self._file_bytes - offset)
            raise BrokenTileError(
                f"tifffile: segment {index} of page {page.name} ends after {there} of {count} bytes; "
                "the file is truncated"
            )
        return os.pread(self._file.fileno(), count, offset)


def _place_of(page: TiffPage, index: int) -> str:
    """A segment as people find it."""
    row, column = divmod(index, page.tiles_x)
    what = f"tile {column}, {row}" if page.is_tiled else f"strip {index}"
    return f"{what} of page {page.name}"
