"""The JPEG tiles of a level as they stand in the file, for copying without decoding."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.images.jpeg_markers import FRAMES, check_stream, segments
from muse_core.slide.info import Level
from muse_core.slide.tiff_pages import JPEG, PARSE_ERRORS, TiffLevel, read_tiff_summary

_YCBCR = 6  # TIFF photometric tag
_RGB = 2
_HEAD_BYTES = 1024  # holds the markers before a tile's scan


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
        """The compressed bytes of one tile, whole from its start to its end; b"" for one that the scanner left out.

        Args:
            tile_x: 0 .. tiles_x - 1.
            tile_y: 0 .. tiles_y - 1.

        Raises:
            SlideReadError: the tile lies outside the grid or beyond the end of the file, its bytes are no sound JPEG
                stream, or the file cannot be read.
        """
        if not (0 <= tile_x < self.tiles_x and 0 <= tile_y < self.tiles_y):
            raise SlideReadError(
                f"{self._path}: no tile {tile_x}, {tile_y} in a grid of {self.tiles_x} x {self.tiles_y}"
            )
        index = tile_y * self.tiles_x + tile_x
        count = int(self._page.bytecounts[index])
        if not count:
            return b""
        with _slide_errors(self._path):
            data = os.pread(self._descriptor, count, int(self._page.offsets[index]))
        if len(data) < count:
            raise SlideReadError(
                f"{self._path}: tile {tile_x}, {tile_y} ends after {len(data)} of {count} bytes; the file is truncated"
            )
        try:
            check_stream(data)
        except ValueError as error:
            raise SlideReadError(f"{self._path}: tile {tile_x}, {tile_y} {error}") from error
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def open_jpeg_tiles(path: Path, level: Level) -> JpegTiles | None:
    """The JPEG tiles of one level of a TIFF, None where it is stored in any other way.

    Args:
        path: the slide.
        level: the level; found in the file by its size.

    Raises:
        SlideReadError: the file cannot be read any more.
    """
    try:
        summary = read_tiff_summary(path)
    except PARSE_ERRORS:
        return None
    page = next((one for one in summary.levels if (one.width, one.height) == (level.width, level.height)), None)
    # NDPI holds one JPEG a level; the tiles that tifffile makes of its restart intervals are no JPEG by themselves.
    if page is None or summary.kind == "ndpi-tiff" or not _is_jpeg_tiled(page):
        return None
    with _slide_errors(path), path.open("rb", buffering=0) as file:
        photometric, subsampling = _coding(page, _first_head(page, file.fileno()))
        descriptor = os.dup(file.fileno())
    return JpegTiles(
        tile_width=page.tile_width,
        tile_height=page.tile_height,
        tiles_x=page.tiles_x,
        tiles_y=page.tiles_y,
        jpegtables=page.jpegtables,
        photometric=photometric,
        subsampling=subsampling,
        _page=page,
        _path=path,
        _descriptor=descriptor,
    )


@contextmanager
def _slide_errors(path: Path) -> Iterator[None]:
    """Failures to read the slide as SlideReadError; as they are, they would be taken for failures to write a result."""
    try:
        yield
    except OSError as error:
        raise SlideReadError(f"{path}: {error.strerror}; is the slide still there and readable?") from error


def _is_jpeg_tiled(page: TiffLevel) -> bool:
    grid = page.tiles_x * page.tiles_y
    return page.is_tiled and page.is_plain and page.compression == JPEG and page.bits == 8 and page.offsets.size == grid


def _first_head(page: TiffLevel, descriptor: int) -> bytes:
    """The first bytes of the first tile that has any."""
    filled = page.bytecounts.nonzero()[0]
    if not filled.size:
        return b""
    first = int(filled[0])
    return os.pread(descriptor, min(_HEAD_BYTES, int(page.bytecounts[first])), int(page.offsets[first]))


def _coding(page: TiffLevel, head: bytes) -> tuple[int, tuple[int, int] | None]:
    """The colour space and chroma subsampling of the tiles: what their own markers say, else the TIFF's tags.

    Source: JFIF 1.02 (YCbCr only), and libjpeg's libjpeg.txt, "Special markers", for its rank; ITU-T T.81,
    annex B.2.2, for the frame header.
    """
    photometric = _YCBCR if page.photometric == _RGB and head[6:11] == b"JFIF\x00" else page.photometric
    if photometric != _YCBCR:
        return photometric, None
    try:
        frame = next((one.body(head) for one in segments(head) if one.marker in FRAMES), b"")
    except ValueError:  # this one tile is broken; the tag is all there is
        frame = b""
    if len(frame) < 11 or not (frame[10] >> 4 and frame[10] & 15):
        return photometric, page.subsampling
    luma, chroma = frame[7], frame[10]  # sampling factors, 4 bits along x and 4 along y
    return photometric, ((luma >> 4) // (chroma >> 4), (luma & 15) // (chroma & 15))
