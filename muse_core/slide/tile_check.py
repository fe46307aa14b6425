"""Looking at a tile's compressed bytes before a decoder that does not report errors gets them."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.jpeg_markers import END, PADDING_BYTES, segments
from muse_core.slide.info import Level
from muse_core.slide.reader import Corner
from muse_core.slide.tiff_pages import JPEG, JPEG_2000, PARSE_ERRORS, TiffLevel, read_tiff_summary

_HEAD_BYTES = 1024  # holds the markers before a tile's first scan
_TAIL_BYTES = PADDING_BYTES + len(END)
_J2K_STARTS = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")  # bare codestream, JP2 box


class BrokenTileError(SlideReadError):
    """A tile's bytes are broken: the file's fault, not the reader's."""


class TileCheck:
    """Which tiles of a TIFF slide have sound bytes; each is looked at once, from any thread.

    It sees a tile that is cut off, overwritten or has a broken header. It does not see changed bits inside the coded
    data: no decoder does, for JPEG has no checksum.
    """

    def __init__(self, path: Path, levels: Sequence[Level]) -> None:
        """Find the tiles; a file whose layout tifffile cannot tell goes unchecked."""
        self._path = path
        self._lock = threading.Lock()
        self._pages = _matching_pages(path, levels)
        self._sound = [np.zeros(page.offsets.size if page else 0, np.bool_) for page in self._pages]

    @property
    def is_blind(self) -> bool:
        """Whether the tiles of some level are not known."""
        return any(page is None for page in self._pages)

    def region(self, corner: Corner, width: int, height: int, *, level: int) -> None:
        """Look at the tiles under a rectangle of a level.

        Raises:
            BrokenTileError: one of them is broken; names the tile.
            SlideReadError: the file cannot be read any more.
        """
        page = self._pages[level]
        if page is None:
            return
        columns = np.arange(corner[0] // page.tile_width, (corner[0] + width - 1) // page.tile_width + 1)
        rows = np.arange(corner[1] // page.tile_height, (corner[1] + height - 1) // page.tile_height + 1)
        tiles = (rows[:, np.newaxis] * page.tiles_x + columns).ravel()
        unknown = tiles[~self._sound[level][tiles]]
        if unknown.size:
            self._look(page, unknown, level)

    def _look(self, page: TiffLevel, tiles: np.ndarray[tuple[int], np.dtype[np.int64]], level: int) -> None:
        for tile, problem in zip(tiles.tolist(), self._problems(page, tiles.tolist()), strict=True):
            if problem:
                row, column = divmod(tile, page.tiles_x)
                raise BrokenTileError(f"tile {column}, {row} of level {level} {problem}")
        with self._lock:
            self._sound[level][tiles] = True

    def _problems(self, page: TiffLevel, tiles: Sequence[int]) -> list[str | None]:
        try:
            with self._path.open("rb", buffering=0) as file:
                return [
                    _problem(file.fileno(), int(page.offsets[tile]), int(page.bytecounts[tile]), page.compression)
                    for tile in tiles
                ]
        except OSError as error:
            # As it is, it would be taken for a failure of the file that is written meanwhile.
            raise SlideReadError(f"{self._path}: {error.strerror}; is the slide still there and readable?") from error


def _matching_pages(path: Path, levels: Sequence[Level]) -> list[TiffLevel | None]:
    try:
        pages = read_tiff_summary(path).levels
    except PARSE_ERRORS:
        return [None] * len(levels)
    by_size = {(page.width, page.height): page for page in pages if page.is_tiled and page.is_plain}
    return [by_size.get((level.width, level.height)) for level in levels]


def _problem(descriptor: int, offset: int, count: int, compression: int) -> str | None:
    """What is wrong with a segment's bytes, or None. One of no bytes is left out on purpose."""
    if count == 0:
        return None
    head = os.pread(descriptor, min(count, _HEAD_BYTES), offset)
    tail_size = min(count, _TAIL_BYTES)
    tail = head[-tail_size:] if len(head) == count else os.pread(descriptor, tail_size, offset + count - tail_size)
    if len(head) < min(count, _HEAD_BYTES) or len(tail) < tail_size:
        return "lies beyond the end of the file, which is truncated"
    if compression == JPEG:
        return _jpeg_problem(head, tail)
    if compression in JPEG_2000 and not head.startswith(_J2K_STARTS):
        return "does not begin as JPEG 2000"
    return None


def _jpeg_problem(head: bytes, tail: bytes) -> str | None:
    try:
        for _ in segments(head):
            pass
    except ValueError as error:
        return str(error)
    return None if END in tail else "has no end of JPEG data"
