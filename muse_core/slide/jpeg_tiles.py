"""The JPEG tiles of a level as they stand in the file, for copying without decoding."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.slide.page_pixels import page_colours, refusal_of
from muse_core.slide.tiff_pages import JPEG, RGB, YCBCR, TiffPage
from muse_core.slide.tile_check import jpeg_problem


@dataclass(frozen=True)
class JpegTiles:
    """The compressed tiles of one level; any number of threads may read from it, for reads are by position.

    Attributes:
        tile_width: px; tiles at the right and bottom edge are padded to it by the writer.
        tile_height: px.
        tiles_x: tiles across.
        tiles_y: tiles down.
        jpegtables: the abbreviated JPEG stream that holds the tables shared by all tiles; None where each has its own.
        photometric: TIFF tag value a decoder needs: 2 (RGB), 6 (YCbCr), as the tiles' own markers say.
        subsampling: chroma subsampling (x, y), or None where not YCbCr or not told.
    """

    tile_width: int
    tile_height: int
    tiles_x: int
    tiles_y: int
    jpegtables: bytes | None
    photometric: int
    subsampling: tuple[int, int] | None
    _page: TiffPage = field(repr=False)
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
        if problem := jpeg_problem(data, self.jpegtables):
            raise SlideReadError(f"{self._path}: tile {tile_x}, {tile_y} {problem}")
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def open_jpeg_tiles(path: Path, page: TiffPage) -> JpegTiles | None:
    """The JPEG tiles of one page of a TIFF, None where it is stored in any other way.

    Args:
        path: the slide.
        page: the page of a level.

    Raises:
        SlideReadError: the file cannot be read any more.
    """
    if not (page.is_tiled and page.compression == JPEG and refusal_of(page) is None and page.channels == 3):
        return None
    with _slide_errors(path):
        found = page_colours(page, path)
        with path.open("rb", buffering=0) as file:
            descriptor = os.dup(file.fileno())
    if found is None or found.colours not in ("rgb", "ycbcr"):
        os.close(descriptor)
        return None
    return JpegTiles(
        tile_width=page.tile_width,
        tile_height=page.tile_height,
        tiles_x=page.tiles_x,
        tiles_y=page.tiles_y,
        jpegtables=page.jpegtables,
        photometric=YCBCR if found.colours == "ycbcr" else RGB,
        subsampling=(found.subsampling or page.subsampling) if found.colours == "ycbcr" else None,
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
