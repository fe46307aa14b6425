"""Looking at a tile's compressed bytes before a decoder that does not report errors gets them."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.jpeg_markers import check_stream, is_zeroed
from muse_core.slide.reader import Corner
from muse_core.slide.tiff_pages import JPEG, JPEG_2000, TiffPage

_J2K_STARTS = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")  # bare codestream, JP2 box
_J2K_END = b"\xff\xd9"
_PADDING_BYTES = 64  # at most so many stand behind the end marker


class BrokenTileError(SlideReadError):
    """A tile's bytes are broken: the file's fault, not the reader's."""


class TileCheck:
    """Which tiles of a TIFF slide have sound bytes; each is looked at once, from any thread.

    It sees a tile that is cut off, overwritten, zeroed in part or has a broken header. It does not see single bits that
    changed inside the coded data: JPEG has no checksum.
    """

    def __init__(self, path: Path, pages: Sequence[TiffPage]) -> None:
        """Args: path: the slide; pages: the page of each level, in tiles."""
        self._path = path
        self._lock = threading.Lock()
        self._pages = tuple(pages)
        self._sound = [np.zeros(page.offsets.size, np.bool_) for page in pages]

    def region(self, corner: Corner, width: int, height: int, *, level: int) -> list[int]:
        """Look at the tiles under a rectangle of a level; those that were left out of the file.

        Raises:
            BrokenTileError: one of them is broken; names the tile.
            SlideReadError: the file cannot be read any more.
        """
        page = self._pages[level]
        tiles = page.segments_under(corner, width, height)
        unknown = tiles[~self._sound[level][tiles]]
        if unknown.size:
            self._look(page, unknown, level)
        return tiles[page.bytecounts[tiles] == 0].tolist() if page.has_empty_segments else []

    def place_of(self, tile: int, *, level: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a tile in px of its level."""
        page = self._pages[level]
        row, column = divmod(tile, page.tiles_x)
        left, top = column * page.tile_width, row * page.tile_height
        return left, top, left + page.tile_width, top + page.tile_height

    def _look(self, page: TiffPage, tiles: np.ndarray[tuple[int], np.dtype[np.int64]], level: int) -> None:
        for tile, problem in zip(tiles.tolist(), self._problems(page, tiles.tolist()), strict=True):
            if problem:
                row, column = divmod(tile, page.tiles_x)
                raise BrokenTileError(f"tile {column}, {row} of level {level} {problem}")
        with self._lock:
            self._sound[level][tiles] = True

    def _problems(self, page: TiffPage, tiles: Sequence[int]) -> list[str | None]:
        try:
            with self._path.open("rb", buffering=0) as file:
                return [
                    _problem(file.fileno(), int(page.offsets[tile]), int(page.bytecounts[tile]), page) for tile in tiles
                ]
        except OSError as error:
            # As it is, it would be taken for a failure of the file that is written meanwhile.
            raise SlideReadError(f"{self._path}: {error.strerror}; is the slide still there and readable?") from error


def _problem(descriptor: int, offset: int, count: int, page: TiffPage) -> str | None:
    """What is wrong with a segment's bytes, or None. One of no bytes is left out on purpose."""
    if count == 0:
        return None
    if offset + count > os.fstat(descriptor).st_size:
        return "lies beyond the end of the file, which is truncated"
    return problem_of(page, os.pread(descriptor, count, offset))


def problem_of(page: TiffPage, data: bytes) -> str | None:
    """What is wrong with a segment's bytes, as far as can be told without decoding them; None for nothing."""
    if page.compression == JPEG:
        return jpeg_problem(data, page.jpegtables)
    if page.compression in JPEG_2000:
        return _jpeg_2000_problem(data)
    return None


def jpeg_problem(data: bytes, tables: bytes | None) -> str | None:
    """What is wrong with a JPEG stream, as far as its markers and runs of zeros tell; None for nothing."""
    try:
        check_stream(data)
    except ValueError as error:
        return str(error)
    return "holds nothing but zeros in places" if is_zeroed(data, tables) else None


def _jpeg_2000_problem(data: bytes) -> str | None:
    if not data.startswith(_J2K_STARTS):
        return "does not begin as JPEG 2000"
    return None if _J2K_END in data[-_PADDING_BYTES:] else "has no end of JPEG 2000 data"
