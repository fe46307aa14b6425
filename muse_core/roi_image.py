"""ROI images: tiled JPEG TIFFs in memory, written from pixels or from a slide's own tiles, read a sub-region at a time.

A stored ROI is an ordinary tiled TIFF that any TIFF reader opens. Its tiles are JPEGs of their own, so that a view cut out
of a big ROI decodes only the tiles it touches. Frame: ROI pixels, x right, y down; arrays are (H, W, 3) uint8 RGB.

    image = RoiImage(encode_roi(rgb))
    view = image.read(100, 200, 448, 448)
"""

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from muse_core.config import Settings
from muse_core.errors import DatasetError

TILED_JPEG = "tiff-jpeg-tiles"
WHOLE_FORMATS = ("jpeg", "png")  # from other tools: decoded whole, then cropped

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

# Quality 93 without chroma subsampling keeps 38.9 dB or more on every tissue tried: scanner JPEG and JPEG 2000 slides at
# their own resolution (38.9, 39.7), 40x immunohistochemistry (41.5), 20x H&E brought to 0.25 µm/px (39.2 to 44.9), drawn dots
# (43.4). 4:2:0 stays below 38 dB on four of these even at quality 95: what separates the stains is their colour. A ROI of 2048 px
# is 1.3 to 2.4 MB; quality 75 with 4:2:0 would be 0.6 to 1.1 MB and 29.6 dB at worst.
DEFAULT_QUALITY = 93
DEFAULT_SUBSAMPLING: Subsampling = "4:4:4"
DEFAULT_TILE_PX = 256  # a 448 px view touches 4 to 9 tiles; 128 px tiles save it a fifth but cost every encode as much

_FACTORS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
_JPEG, _RGB, _YCBCR = 7, 2, 6  # TIFF 6.0 and its Technical Note 2: values of Compression and Photometric
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _COUNTS, _JPEG_TABLES, _SUBSAMPLING = 322, 323, 324, 325, 347, 530
_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7
_CODES = {
    1: ("B", 1),
    _SHORT: ("H", 1),
    _LONG: ("I", 1),
    _RATIONAL: ("I", 2),
    _UNDEFINED: ("B", 1),
}  # of a value: code, numbers


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

    tile_width: int
    tile_height: int
    tiles_x: int
    tiles_y: int
    jpegtables: bytes | None
    photometric: int
    subsampling: tuple[int, int] | None

    def read_tile(self, tx: int, ty: int) -> bytes:
        """The JPEG stream of a tile, b"" where the slide stores none."""


@dataclass(frozen=True)
class TileLayout:
    """What a tiled TIFF says of its tiles.

    Attributes:
        width_px: image width; the last column of tiles may stick out.
        height_px: image height.
        tile_width: width of every tile in px.
        tile_height: height of every tile in px.
        photometric: 2 where the JPEG samples are RGB, 6 where they are YCbCr.
        subsampling: chroma subsampling (x, y) of the JPEG streams.
        jpegtables: the tables that all tiles share, None where each tile has its own.
        spans: byte (offset, length) of each tile, row by row.
    """

    width_px: int
    height_px: int
    tile_width: int
    tile_height: int
    photometric: int
    subsampling: tuple[int, int]
    jpegtables: bytes | None
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def tiles_x(self) -> int:
        """Tiles in a row."""
        return -(-self.width_px // self.tile_width)

    @property
    def tiles_y(self) -> int:
        """Tiles in a column."""
        return -(-self.height_px // self.tile_height)


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
    tables, tiles = _share_tables(list(run(encode, _cut_tiles(rgb, tile_px))))
    layout = TileLayout(width, height, tile_px, tile_px, _YCBCR, _FACTORS[subsampling], tables)
    return _write_tiff(layout, tiles, mpp)


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
        The file's bytes; None where tiles cannot be copied (some lie outside the level or are not stored, or the samples are
        neither RGB nor YCbCr) and the ROI has to be encoded from its pixels.
    """
    source = jpeg_tiles
    columns, rows = -(-width_px // source.tile_width), -(-height_px // source.tile_height)
    fits = tile_x >= 0 and tile_y >= 0 and tile_x + columns <= source.tiles_x and tile_y + rows <= source.tiles_y
    if not fits or source.photometric not in (_RGB, _YCBCR):
        return None
    tiles = []
    for ty in range(tile_y, tile_y + rows):
        for tx in range(tile_x, tile_x + columns):
            tile = source.read_tile(tx, ty)
            if not tile:
                return None
            tiles.append(tile)
    # TIFF 6.0 reads a missing subsampling tag as 2 x 2.
    subsampling = (1, 1) if source.photometric == _RGB else source.subsampling or (2, 2)
    layout = TileLayout(
        width_px, height_px, source.tile_width, source.tile_height, source.photometric, subsampling, source.jpegtables
    )
    return _write_tiff(layout, tiles, mpp)


class RoiImage:
    """A stored ROI image, decoded where it is looked at.

    Decoded tiles are kept as long as the object lives, so that overlapping views of one ROI decode each tile once. Reading is
    safe from several threads: at worst two of them decode the same tile.
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
        self._tiles: dict[int, NDArray[np.uint8]] = {}
        if image_format == TILED_JPEG:
            self._layout = _parse_tiff(data, name)
        elif image_format in WHOLE_FORMATS:
            pixels = _decode_whole(data, image_format, name)
            height, width = pixels.shape[:2]
            self._layout = TileLayout(width, height, width, height, _RGB, (1, 1), None, ((0, len(data)),))
            self._tiles[0] = pixels
        else:
            raise DatasetError(
                f"{name}: image_format {image_format!r}; known are {', '.join((TILED_JPEG, *WHOLE_FORMATS))}"
            )

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
        colorspace = "RGB" if layout.photometric == _RGB else "YCBCR"
        try:
            tile = imagecodecs.jpeg_decode(
                self._data[offset : offset + length],
                tables=layout.jpegtables,
                colorspace=colorspace,
                outcolorspace="RGB",
            )
        except imagecodecs.Jpeg8Error as error:
            raise DatasetError(f"{self._name}: tile {index} does not decode: {error}") from None
        if tile.shape != (layout.tile_height, layout.tile_width, 3):
            raise DatasetError(f"{self._name}: tile {index} decodes to {tile.shape}, not to the tile size of the file")
        return np.asarray(tile)


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


def _share_tables(streams: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Move the quantisation and Huffman tables, equal in all streams, into one; saves 3 % of a ROI.

    Our encoder's streams are of one size, quality and table set, so that they are equal up to the start of the scan.
    """
    head = streams[0]
    tables, frame = b"", b""
    at = 2
    while head[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at + 1] in (0xDB, 0xC4):  # quantisation, Huffman
            tables += head[at:end]
        elif head[at + 1] != 0xE0:  # JFIF is dropped: the TIFF says what the samples are
            frame += head[at:end]
        at = end
    assert all(stream.startswith(head[:at]) for stream in streams), "JPEG headers differ between tiles of one ROI"
    start = head[:2] + frame
    return head[:2] + tables + b"\xff\xd9", [start + stream[at:] for stream in streams]


def _write_tiff(layout: TileLayout, tiles: Sequence[bytes], mpp: float | None) -> bytes:
    """A classic little-endian TIFF of one page: header, tags, tag values that don't fit, tiles."""
    lengths = [len(tile) + len(tile) % 2 for tile in tiles]  # TIFF offsets are even
    entries: list[tuple[int, int, Sequence[int]]] = [
        (_WIDTH, _LONG, [layout.width_px]),
        (_HEIGHT, _LONG, [layout.height_px]),
        (_BITS, _SHORT, [8, 8, 8]),
        (_COMPRESSION, _SHORT, [_JPEG]),
        (_PHOTOMETRIC, _SHORT, [layout.photometric]),
        (_SAMPLES, _SHORT, [3]),
        (_PLANAR, _SHORT, [1]),
        (_TILE_WIDTH, _LONG, [layout.tile_width]),
        (_TILE_HEIGHT, _LONG, [layout.tile_height]),
        (_OFFSETS, _LONG, [0] * len(tiles)),
        (_COUNTS, _LONG, [len(tile) for tile in tiles]),
    ]
    if mpp is not None:
        per_cm = [round(10_000_000 / mpp), 1000]
        entries += [
            (_X_RESOLUTION, _RATIONAL, per_cm),
            (_Y_RESOLUTION, _RATIONAL, per_cm),
            (_RESOLUTION_UNIT, _SHORT, [3]),
        ]
    if layout.jpegtables:
        entries.append((_JPEG_TABLES, _UNDEFINED, layout.jpegtables))
    if layout.photometric == _YCBCR:
        entries.append((_SUBSAMPLING, _SHORT, layout.subsampling))
    entries.sort()
    start = len(_pack_tags(entries))
    offsets = (start + np.cumsum([0, *lengths[:-1]])).tolist()
    tags = _pack_tags([(tag, kind, offsets if tag == _OFFSETS else values) for tag, kind, values in entries])
    return b"".join([tags, *(part for tile in tiles for part in (tile, b"\0" * (len(tile) % 2)))])


def _pack_tags(entries: list[tuple[int, int, Sequence[int]]]) -> bytes:
    """The TIFF header, its one tag directory, and the values that do not fit in an entry's four bytes."""
    start = 8 + 2 + 12 * len(entries) + 4
    directory, values_after = struct.pack("<H", len(entries)), b""
    for tag, kind, values in entries:
        code, numbers = _CODES[kind]
        packed, count = struct.pack(f"<{len(values)}{code}", *values), len(values) // numbers
        field = packed.ljust(4, b"\0")
        if len(packed) > 4:
            field = struct.pack("<I", start + len(values_after))
            values_after += packed + b"\0" * (len(packed) % 2)
        directory += struct.pack("<HHI", tag, kind, count) + field
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + values_after


def _parse_tiff(data: bytes, name: str) -> TileLayout:
    """The layout of a classic TIFF whose first page is tiled RGB or YCbCr JPEG.

    Raises:
        DatasetError: it is not one, or its tiles do not lie inside the file.
    """
    try:
        tags = _read_tags(data)
        layout = _layout_from(tags)
    except (struct.error, KeyError, IndexError, ValueError) as error:
        raise DatasetError(f"{name}: not a tiled JPEG TIFF ({error}); {len(data)} bytes") from None
    if len(layout.spans) != layout.tiles_x * layout.tiles_y or any(
        length < 4 or offset + length > len(data) for offset, length in layout.spans
    ):
        raise DatasetError(f"{name}: tiles are missing or cut off ({len(data)} bytes); build the slide again")
    return layout


def _read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError(f"starts with {data[:4]!r}")
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (n_entries,) = struct.unpack_from(f"{order}H", data, directory)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(directory + 2, directory + 2 + 12 * n_entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        if kind not in _CODES:
            continue
        code, numbers = _CODES[kind]
        layout = f"{order}{count * numbers}{code}"
        where = at + 8
        if struct.calcsize(layout) > 4:
            (where,) = struct.unpack_from(f"{order}I", data, where)
        tags[tag] = struct.unpack_from(layout, data, where)
    return tags


def _layout_from(tags: dict[int, tuple[int, ...]]) -> TileLayout:
    photometric = tags[_PHOTOMETRIC][0]
    if tags[_COMPRESSION][0] != _JPEG or photometric not in (_RGB, _YCBCR) or tags[_SAMPLES][0] != 3:
        raise ValueError(f"compression {tags[_COMPRESSION][0]}, photometric {photometric}, {tags[_SAMPLES][0]} samples")
    if not all(tags[tag][0] for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)):
        raise ValueError("a side of 0 px")
    subsampling_x, subsampling_y = tags.get(_SUBSAMPLING, (2, 2))
    return TileLayout(
        width_px=tags[_WIDTH][0],
        height_px=tags[_HEIGHT][0],
        tile_width=tags[_TILE_WIDTH][0],
        tile_height=tags[_TILE_HEIGHT][0],
        photometric=photometric,
        subsampling=(subsampling_x, subsampling_y),
        jpegtables=bytes(tags[_JPEG_TABLES]) if _JPEG_TABLES in tags else None,
        spans=tuple(zip(tags[_OFFSETS], tags[_COUNTS], strict=True)),
    )


def _decode_whole(data: bytes, image_format: str, name: str) -> NDArray[np.uint8]:
    decode = imagecodecs.jpeg_decode if image_format == "jpeg" else imagecodecs.png_decode
    try:
        pixels = np.asarray(decode(data))
    except (imagecodecs.Jpeg8Error, imagecodecs.PngError) as error:
        raise DatasetError(f"{name}: not a readable {image_format}: {error}") from None
    if pixels.dtype != np.uint8:
        raise DatasetError(f"{name}: {pixels.dtype} samples; needs 8 bits a channel")
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
