"""ROI images: tiled JPEG TIFFs, written from pixels or from a slide's own tiles, and read a sub-region at a time.

A stored ROI is an ordinary tiled TIFF that any TIFF reader opens. Its tiles are JPEGs of their own, so that a view cut
out of a big ROI decodes only the tiles it touches. Frame: ROI pixels, x right, y down; arrays are (H, W, 3) uint8 RGB.

    image = RoiImage(encode_roi(rgb))
    view = image.read(100, 200, 448, 448)
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Annotated, Literal, Protocol
from zlib import crc32

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from muse_core.config import Settings
from muse_core.errors import DatasetError
from muse_core.roi_dataset.tiff import RGB, YCBCR, TileLayout, parse_tiff, sampling_of, share_tables, write_tiff

TILED_JPEG = "tiff-jpeg-tiles"
WHOLE_FORMATS = ("jpeg", "png")  # from other tools: decoded whole, then cropped

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

# Quality 93 without chroma subsampling keeps 38.9 dB or more on every tissue tried: scanner JPEG and JPEG 2000 slides
# at their own resolution (38.9, 39.7), 40x immunohistochemistry (41.5), 20x H&E brought to 0.25 µm/px (39.2 to 44.9),
# drawn dots (43.4). With 4:2:0, three of these stay below 38 dB even at quality 95: what tells stains apart is colour.
# A ROI of 2048 px is 1.6 MB on average; quality 75 with 4:2:0 would make 0.6 MB, and 29.6 dB at worst.
DEFAULT_QUALITY = 93
DEFAULT_SUBSAMPLING: Subsampling = "4:4:4"
DEFAULT_TILE_PX = 256  # a 448 px view touches 4 to 9 tiles; 128 px tiles save it a fifth but cost every encode as much

_TAGS_BYTES = 16 * 2**10  # hold the tags of a thousand tiles; of images with more, more is read
_MORE_TAGS = 8  # times as much

_FACTORS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}


class RoiImageSettings(Settings):
    """How ROI images are stored.

    Attributes:
        quality: JPEG quality; reason at DEFAULT_QUALITY.
        subsampling: chroma subsampling; reason at DEFAULT_QUALITY.
        tile_px: side of the tiles in px, a multiple of 16 (TIFF 6.0, section 15).
        copy_tiles: keep the slide's own compressed tiles where a ROI lies on their grid: no decode, no encode, no loss.
    """

    quality: Annotated[int, Field(ge=1, le=100)] = DEFAULT_QUALITY
    subsampling: Subsampling = DEFAULT_SUBSAMPLING
    tile_px: Annotated[int, Field(ge=64, le=2048, multiple_of=16)] = DEFAULT_TILE_PX
    copy_tiles: bool = True


class JpegTiles(Protocol):
    """One level's compressed tiles as they stand in the slide file."""

    @property
    def tile_width(self) -> int: ...  # noqa: D102
    @property
    def tile_height(self) -> int: ...  # noqa: D102
    @property
    def tiles_x(self) -> int: ...  # noqa: D102
    @property
    def tiles_y(self) -> int: ...  # noqa: D102
    @property
    def jpegtables(self) -> bytes | None: ...  # noqa: D102
    @property
    def photometric(self) -> int: ...  # noqa: D102

    def read_tile(self, tx: int, ty: int) -> bytes:
        """The JPEG stream of a tile, checked to be whole; b"" where the slide stores none."""


def encode_roi(
    rgb: NDArray[np.uint8],
    *,
    quality: int = DEFAULT_QUALITY,
    subsampling: Subsampling = DEFAULT_SUBSAMPLING,
    tile_px: int = DEFAULT_TILE_PX,
    mpp: float | None = None,
    pool: Executor | None = None,
) -> bytes:
    """Encode a ROI as a tiled JPEG TIFF.

    Args:
        rgb: (H, W, 3) uint8.
        quality: JPEG quality 1..100.
        subsampling: chroma subsampling.
        tile_px: tile side in px, a multiple of 16.
        mpp: µm/px, written as the TIFF's resolution so that viewers show a scale.
        pool: threads to spread the tiles over (the encoder releases the GIL); None encodes in the calling thread.

    Returns:
        The file's bytes.

    Raises:
        DatasetError: `rgb` is not (H, W, 3) uint8, or is empty.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise DatasetError(f"ROI image: shape {rgb.shape}, {rgb.dtype}; needs (H, W, 3) uint8 RGB")
    height, width = rgb.shape[:2]

    def encode(tile: NDArray[np.uint8]) -> bytes:
        return bytes(imagecodecs.jpeg_encode(tile, level=quality, subsampling=_FACTORS[subsampling]))

    run = map if pool is None else pool.map
    tables, tiles = share_tables(list(run(encode, _cut_tiles(rgb, tile_px))))
    layout = TileLayout(width, height, tile_px, tile_px, YCBCR, _FACTORS[subsampling], tables)
    return write_tiff(layout, tiles, mpp)


def copy_roi(
    jpeg_tiles: JpegTiles, tile_x: int, tile_y: int, width_px: int, height_px: int, *, mpp: float | None = None
) -> bytes | None:
    """A ROI made of the slide's own compressed tiles, unchanged: no decode, no encode, no loss.

    Args:
        jpeg_tiles: the tiles of one level.
        tile_x: column of the tile at the ROI's top-left corner.
        tile_y: its row.
        width_px: ROI width; the last column of tiles may stick out.
        height_px: ROI height.
        mpp: µm/px, written as the TIFF's resolution.

    Returns:
        The file's bytes; None where tiles cannot be copied (some lie outside the level, are not stored or are not JPEGs
        of the tile size, or the samples are neither RGB nor YCbCr) and the ROI has to be encoded from its pixels.

    Raises:
        SlideReadError: a tile is broken.
    """
    source = jpeg_tiles
    columns, rows = -(-width_px // source.tile_width), -(-height_px // source.tile_height)
    fits = tile_x >= 0 and tile_y >= 0 and tile_x + columns <= source.tiles_x and tile_y + rows <= source.tiles_y
    if not fits or source.photometric not in (RGB, YCBCR):
        return None
    tiles, samplings = [], set()
    for ty in range(tile_y, tile_y + rows):
        for tx in range(tile_x, tile_x + columns):
            tile = source.read_tile(tx, ty)
            samplings.add(sampling_of(tile, source.tile_width, source.tile_height))
            tiles.append(tile)
    sampling = samplings.pop()
    if samplings or sampling is None:
        return None
    # Taken from the streams: readers refuse a tag that differs from them, and slides' own tags are not always right.
    layout = TileLayout(
        width_px, height_px, source.tile_width, source.tile_height, source.photometric, sampling, source.jpegtables
    )
    return write_tiff(layout, tiles, mpp)


class StoredBytes(Protocol):
    """An image's bytes where they lie in a file, read a piece at a time."""

    @property
    def size(self) -> int:
        """Of the image, bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the image from an offset on.

        Raises:
            DatasetError: they cannot be read.
        """


class RoiImage:
    """A stored ROI image, decoded where it is looked at.

    Decoded tiles are kept as long as the object lives, so that overlapping views of one ROI decode each tile once.
    Reading is safe from several threads: at worst two of them decode the same tile.
    """

    def __init__(self, data: bytes, image_format: str = TILED_JPEG, *, name: str = "ROI image") -> None:
        """Read the header; no pixel is decoded yet, save for formats without tiles, which are decoded whole.

        Args:
            data: the file's bytes.
            image_format: `tiff-jpeg-tiles`, or `jpeg` or `png` from other tools.
            name: what to call the image in errors, such as its roi_id.

        Raises:
            DatasetError: the format is unknown or the bytes are not of it.
        """
        self._data, self._name = data, name
        self._stored: StoredBytes | None = None
        self._tiles: dict[int, NDArray[np.uint8]] = {}
        if image_format == TILED_JPEG:
            self._layout = parse_tiff(data, name)
        elif image_format in WHOLE_FORMATS:
            pixels = _decode_whole(data, image_format, name)
            height, width = pixels.shape[:2]
            self._layout = TileLayout(width, height, width, height, RGB, (1, 1), None, ((0, len(data)),))
            self._tiles[0] = pixels
        else:
            raise DatasetError(
                f"{name}: image_format {image_format!r}; known are {', '.join((TILED_JPEG, *WHOLE_FORMATS))}"
            )

    @classmethod
    def of_stored(cls, stored: "StoredBytes", *, name: str) -> "RoiImage | None":
        """An image of which only the tiles that are looked at are read; None where it holds no checksums of tiles.

        Raises:
            DatasetError: it is no tiled JPEG TIFF.
        """
        layout = _stored_layout(stored, name)
        if not layout.checksums:
            return None
        image = cls.__new__(cls)
        image._data, image._name, image._tiles, image._layout, image._stored = b"", name, {}, layout, stored
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self._layout.width_px, self._layout.height_px

    @property
    def layout(self) -> TileLayout:
        """How the image is cut into tiles."""
        return self._layout

    @property
    def tiles_decoded(self) -> int:
        """How many tiles have been decoded so far."""
        return len(self._tiles)

    def decode(self) -> NDArray[np.uint8]:
        """All pixels, (H, W, 3) uint8 RGB."""
        return self.read(0, 0, *self.size)

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """The pixels of a sub-region, decoding only the tiles that it touches.

        Args:
            x: left column, ROI px.
            y: top row, ROI px.
            width: columns.
            height: rows.

        Returns:
            (height, width, 3) uint8 RGB, the caller's own.

        Raises:
            DatasetError: the region is empty or leaves the image, or a tile does not decode.
        """
        image_width, image_height = self.size
        if not (0 <= x < x + width <= image_width and 0 <= y < y + height <= image_height):
            raise DatasetError(
                f"{self._name}: region x {x} y {y} of {width} x {height} px in {image_width} x {image_height} px"
            )
        out = np.empty((height, width, 3), np.uint8)
        tile_w, tile_h = self._layout.tile_width, self._layout.tile_height
        for ty in range(y // tile_h, (y + height - 1) // tile_h + 1):
            rows = slice(max(y, ty * tile_h), min(y + height, (ty + 1) * tile_h))
            for tx in range(x // tile_w, (x + width - 1) // tile_w + 1):
                columns = slice(max(x, tx * tile_w), min(x + width, (tx + 1) * tile_w))
                out[_shifted(rows, y), _shifted(columns, x)] = self._tile(ty * self._layout.tiles_x + tx)[
                    _shifted(rows, ty * tile_h), _shifted(columns, tx * tile_w)
                ]
        return out

    def _tile(self, index: int) -> NDArray[np.uint8]:
        tile = self._tiles.get(index)
        if tile is None:
            tile = self._tiles[index] = self._decode_tile(index)
        return tile

    def _decode_tile(self, index: int) -> NDArray[np.uint8]:
        layout = self._layout
        offset, length = layout.spans[index]
        stream = self._data[offset : offset + length] if self._stored is None else self._stored.read(offset, length)
        if layout.checksums and crc32(stream) != layout.checksums[index]:
            raise DatasetError(f"{self._name}: tile {index} is damaged, its checksum is another; build the slide again")
        colorspace = "RGB" if layout.photometric == RGB else "YCBCR"
        try:
            tile = imagecodecs.jpeg_decode(
                stream,
                tables=layout.jpegtables,
                colorspace=colorspace,
                outcolorspace="RGB",
            )
        except imagecodecs.Jpeg8Error as error:
            raise DatasetError(f"{self._name}: tile {index} does not decode: {error}") from None
        if tile.shape != (layout.tile_height, layout.tile_width, 3):
            raise DatasetError(f"{self._name}: tile {index} decodes to {tile.shape}, not to the tile size of the file")
        return np.asarray(tile)


def _stored_layout(stored: StoredBytes, name: str) -> TileLayout:
    """What the image's beginning says of its tiles: as much of it is read as holds the tags."""
    length = min(_TAGS_BYTES, stored.size)
    while True:
        head = stored.read(0, length)
        try:
            return parse_tiff(head, name, size=stored.size)
        except DatasetError:
            if length == stored.size:
                raise
        length = min(length * _MORE_TAGS, stored.size)


def _shifted(span: slice, start: int) -> slice:
    return slice(span.start - start, span.stop - start)


def _cut_tiles(rgb: NDArray[np.uint8], tile_px: int) -> Iterator[NDArray[np.uint8]]:
    """Square tiles, row by row; those that stick out are filled by repeating the edge, which rings least in JPEG."""
    height, width = rgb.shape[:2]
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            tile = rgb[y : y + tile_px, x : x + tile_px]
            below, right = tile_px - tile.shape[0], tile_px - tile.shape[1]
            yield np.pad(tile, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else tile


def _decode_whole(data: bytes, image_format: str, name: str) -> NDArray[np.uint8]:
    decode = imagecodecs.jpeg_decode if image_format == "jpeg" else imagecodecs.png_decode
    try:
        pixels = np.asarray(decode(data))
    except (imagecodecs.Jpeg8Error, imagecodecs.PngError, ValueError) as error:
        raise DatasetError(f"{name}: not a readable {image_format}: {error}") from None
    if pixels.dtype != np.uint8:
        raise DatasetError(f"{name}: {pixels.dtype} samples; needs 8 bits a channel")
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
