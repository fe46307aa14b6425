"""The JPEG tiles of a level as they stand in the file, for copying without decoding."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.slide.info import Level
from muse_core.slide.tiff_pages import JPEG, PARSE_ERRORS, TiffLevel, read_tiff_summary

_YCBCR = 6  # TIFF photometric tag
_RGB = 2
_HEAD_BYTES = 256  # holds the APP0 and APP14 segments, which come first


@dataclass(frozen=True)
class JpegTiles:
    """The compressed tiles of one level; any number of threads may read from it, for reads are by position.

    Attributes:
        tile_width: px; tiles at the right and bottom edge are padded to it by the writer.
        tile_height: px.
        tiles_x: tiles across.
        tiles_y: tiles down.
        jpegtables: the abbreviated JPEG stream that holds the tables shared by all tiles; None where each has its own.
        photometric: TIFF tag value a decoder needs: 2 (RGB), 6 (YCbCr). Where the tag says RGB and the tiles are marked
            as JFIF, which is YCbCr, the marker wins.
        subsampling: chroma subsampling (x, y), or None where not YCbCr or not told.
    """

    tile_width: int
    tile_height: int
    tiles_x: int
    tiles_y: int
    jpegtables: bytes | None
    photometric: int
    subsampling: tuple[int, int] | None
    _page: TiffLevel = field(repr=False)
    _path: Path
    _descriptor: int = field(repr=False)

    def read_tile(self, tile_x: int, tile_y: int) -> bytes:
        """The compressed bytes of one tile, b"" for one that the scanner left out.

        Args:
            tile_x: 0 .. tiles_x - 1.
            tile_y: 0 .. tiles_y - 1.

        Raises:
            SlideReadError: the tile lies outside the grid or beyond the end of the file.
        """
        if not (0 <= tile_x < self.tiles_x and 0 <= tile_y < self.tiles_y):
            raise SlideReadError(
                f"{self._path}: no tile {tile_x}, {tile_y} in a grid of {self.tiles_x} x {self.tiles_y}"
            )
        index = tile_y * self.tiles_x + tile_x
        count = int(self._page.bytecounts[index])
        data = os.pread(self._descriptor, count, int(self._page.offsets[index])) if count else b""
        if len(data) < count:
            raise SlideReadError(
                f"{self._path}: tile {tile_x}, {tile_y} ends after {len(data)} of {count} bytes; the file is truncated"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def open_jpeg_tiles(path: Path, level: Level) -> JpegTiles | None:
    """The JPEG tiles of one level of a TIFF, None where it is stored in any other way.

    Args:
        path: the slide.
        level: the level; found in the file by its size.
    """
    try:
        pages = read_tiff_summary(path).levels
    except PARSE_ERRORS:
        return None
    page = next((one for one in pages if (one.width, one.height) == (level.width, level.height)), None)
    if page is None or not _is_jpeg_tiled(page):
        return None
    descriptor = os.open(path, os.O_RDONLY)
    photometric = _coded_photometric(page, descriptor)
    return JpegTiles(
        tile_width=page.tile_width,
        tile_height=page.tile_height,
        tiles_x=page.tiles_x,
        tiles_y=page.tiles_y,
        jpegtables=page.jpegtables,
        photometric=photometric,
        subsampling=page.subsampling if photometric == _YCBCR else None,
        _page=page,
        _path=path,
        _descriptor=descriptor,
    )


def _is_jpeg_tiled(page: TiffLevel) -> bool:
    grid = page.tiles_x * page.tiles_y
    return page.is_tiled and page.is_plain and page.compression == JPEG and page.bits == 8 and page.offsets.size == grid


def _coded_photometric(page: TiffLevel, descriptor: int) -> int:
    """The colour space the tiles are coded in.

    Source: JFIF 1.02 (YCbCr only); libjpeg's libjpeg.txt, "Special markers" (JFIF first, then Adobe's transform flag).
    """
    filled = page.bytecounts.nonzero()[0]
    if page.photometric != _RGB or not filled.size:
        return page.photometric
    first = int(filled[0])
    head = os.pread(descriptor, min(_HEAD_BYTES, int(page.bytecounts[first])), int(page.offsets[first]))
    return _YCBCR if head[6:11] == b"JFIF\x00" else _RGB
