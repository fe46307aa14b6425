"""The pages of a TIFF as they lie in the file: what its tags say, and where each segment's bytes are. No pixels."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from muse_core.slide.file_state import FileState

JPEG = 7  # TIFF compression tag
JPEG_2000 = (33003, 33004, 33005, 34712)
GREY_WHITE_IS_ZERO, GREY, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6  # TIFF photometric tag

# Errors that tifffile's parser lets through on files that are no TIFF, or a broken one.
PARSE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
    RuntimeError,
    MemoryError,
)

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order
_MOST_PAGES = 4096
_MOST_SEGMENTS = 1 << 26  # a slide of a million px a side in tiles of 128 px
_KINDS = (
    "svs",
    "ome",
    "ndpi",
    "scn",
    "bif",
    "philips",
    "qpi",
    "indica",
    "imagej",
)  # of tifffile's, the first that fits
_KEPT = 4  # files whose tags stay in memory


@dataclass(frozen=True)
class TiffPage:
    """One page (image file directory) with its segments, tiles or strips, in row-major order.

    Attributes:
        name: its place in the file: "0", "1", ..., and "0.1" for the second SubIFD of page 0.
        width: px.
        height: px.
        channels: samples a pixel.
        bits: bits a sample.
        tile_width: px; the image width for strips.
        tile_height: px; rows a strip for strips.
        is_tiled: tiles rather than strips.
        planes: 1 where the samples of a pixel stand together, else one plane a sample.
        offsets: (N,) int64 byte offset of each segment, plane by plane.
        bytecounts: (N,) int64; 0 for a segment left out.
        compression: TIFF tag value.
        photometric: TIFF tag value.
        predictor: TIFF tag value; 1 for none.
        subfiletype: TIFF tag value; bit 0 says that the page is a reduced picture of another.
        orientation: TIFF tag value, 1 to 8.
        extra_samples: TIFF tag values: 0 unspecified, 1 associated alpha, 2 unassociated alpha.
        sample_format: TIFF tag value; 1 for unsigned integers.
        ink_set: TIFF tag value; 1 for CMYK.
        resolution: X and Y resolution and the unit's tag value; None where one of them is not in the file.
        description: ImageDescription.
        colour_map: (3, n) uint16 palette, or None.
        jpegtables: abbreviated JPEG tables shared by the tiles, or None.
        subsampling: chroma subsampling (x, y), or None where not YCbCr.
        reference_range: ReferenceBlackWhite, or None.
        decode: tifffile's decoder of one segment's bytes.
    """

    name: str
    width: int
    height: int
    channels: int
    bits: int
    tile_width: int
    tile_height: int
    is_tiled: bool
    planes: int
    offsets: NDArray[np.int64]
    bytecounts: NDArray[np.int64]
    compression: int
    photometric: int
    predictor: int
    subfiletype: int
    orientation: int
    extra_samples: tuple[int, ...]
    sample_format: int
    ink_set: int
    resolution: tuple[float, float, int] | None
    description: str
    colour_map: NDArray[np.uint16] | None
    jpegtables: bytes | None
    subsampling: tuple[int, int] | None
    reference_range: tuple[float, ...] | None
    decode: Callable[..., Any]

    @property
    def tiles_x(self) -> int:
        """Segments across."""
        return -(-self.width // self.tile_width)

    @property
    def tiles_y(self) -> int:
        """Segments down."""
        return -(-self.height // self.tile_height)

    @property
    def is_plain(self) -> bool:
        """Whether the samples of a pixel stand together, which is what the direct ways of reading need."""
        return self.planes == 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.width, self.height

    @property
    def has_empty_segments(self) -> bool:
        """Whether a segment was left out of the file, which stands for glass."""
        return bool((self.bytecounts == 0).any())

    def segments_under(self, corner: tuple[int, int], width: int, height: int) -> NDArray[np.int64]:
        """Indices of the segments of the first plane under a rectangle of px."""
        columns = np.arange(corner[0] // self.tile_width, (corner[0] + width - 1) // self.tile_width + 1)
        rows = np.arange(corner[1] // self.tile_height, (corner[1] + height - 1) // self.tile_height + 1)
        return np.asarray((rows[:, np.newaxis] * self.tiles_x + columns).ravel(), np.int64)


@dataclass(frozen=True)
class TiffSeries:
    """What belongs to one image in the words of the format: `axes` with Z or T for stacks, C for channels apart."""

    name: str
    axes: str
    shape: tuple[int, ...]
    pages: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class TiffFacts:
    """What the tags of a file say.

    Attributes:
        kind: "aperio", "ome-tiff", "hamamatsu", ... or "generic-tiff".
        pages: every page, SubIFDs among them, in file order.
        series: the images that the format makes of them; empty where it makes none.
        ome_xml: the OME metadata, "" without.
        names: names of pages that are not the slide in the format's own words, such as {"2": "label"}.
        is_big: BigTIFF.
        is_big_endian: byte order.
    """

    kind: str
    pages: tuple[TiffPage, ...]
    series: tuple[TiffSeries, ...]
    ome_xml: str
    names: dict[str, str]
    is_big: bool
    is_big_endian: bool

    def page(self, name: str) -> TiffPage:
        """The page of a name."""
        return next(one for one in self.pages if one.name == name)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _TIFF_STARTS
    except OSError:
        return False


def read_tiff_facts(path: Path) -> TiffFacts:
    """Parse the headers of a TIFF; the file is closed again. The facts of the last files stay in memory.

    Raises:
        PARSE_ERRORS: not a TIFF, or one that makes no sense.
    """
    return _read(path, FileState.of(path))


@lru_cache(maxsize=_KEPT)
def _read(path: Path, _: FileState) -> TiffFacts:
    _keep_from_standard_error("tifffile")
    with tifffile.TiffFile(path) as tiff:
        named = dict(_named_pages(tiff))
        by_offset = {page.offset: name for name, page in named.items()}
        size = tiff.filehandle.size
        kind = next((name for name in _KINDS if getattr(tiff, f"is_{name}")), "generic")
        series = tuple(_series(tiff, by_offset))
        return TiffFacts(
            kind={"svs": "aperio", "ndpi": "hamamatsu", "scn": "leica", "bif": "ventana"}.get(kind, f"{kind}-tiff"),
            pages=tuple(_describe(name, page, size) for name, page in named.items()),
            series=series,
            ome_xml=(tiff.ome_metadata or "") if tiff.is_ome else "",
            names={
                one.pages[0]: one.name.lower() for one in series[1:] if one.name and one.pages and kind in _NAMING_KINDS
            },
            is_big=bool(tiff.is_bigtiff),
            is_big_endian=tiff.byteorder == ">",
        )


_NAMING_KINDS = ("svs", "ndpi", "scn", "bif", "philips", "qpi", "ome")  # tifffile's names of their series are words


def _named_pages(tiff: tifffile.TiffFile) -> Iterator[tuple[str, tifffile.TiffPage]]:
    """Every page with its place in the file; SubIFDs follow their page."""
    for index in range(len(tiff.pages)):
        if index >= _MOST_PAGES:
            raise ValueError(f"more than {_MOST_PAGES} pages")
        page = _whole(tiff.pages[index])
        yield str(index), page
        for number, lower in enumerate(page.pages or () if page.subifds else ()):
            yield f"{index}.{number}", _whole(lower)


def _whole(page: Any) -> tifffile.TiffPage:  # noqa: ANN401  (TiffPage or TiffFrame)
    whole: tifffile.TiffPage = page.aspage() if hasattr(page, "aspage") else page
    return whole


def _series(tiff: tifffile.TiffFile, by_offset: dict[int, str]) -> Iterator[TiffSeries]:
    try:
        found = list(tiff.series)
    except PARSE_ERRORS:  # metadata that contradict the pages
        return
    for one in found:
        pages = tuple(by_offset[page.offset] for page in one.pages if page is not None and page.offset in by_offset)
        yield TiffSeries(one.name or "", one.axes, tuple(one.shape), pages)


def _keep_from_standard_error(name: str) -> None:
    """Give a library's logger a handler, so that its complaints go to the log where one is set up and else nowhere."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _describe(name: str, page: tifffile.TiffPage, file_bytes: int) -> TiffPage:
    bits = page.bitspersample
    width, height = int(page.imagewidth), int(page.imagelength)
    tile_width = int(page.tilewidth) if page.is_tiled else width
    tile_height = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), height)
    channels = int(page.samplesperpixel)
    planes = channels if int(page.planarconfig) == 2 else 1
    offsets, bytecounts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    if offsets.size == bytecounts.size:
        bytecounts = np.where(offsets == 0, 0, bytecounts)  # where the file's own header is, no segment can be
    if int(page.imagedepth) != 1:
        raise ValueError(f"page {name} is a volume, {int(page.imagedepth)} px deep")
    return TiffPage(
        name=name,
        width=width,
        height=height,
        channels=channels,
        bits=int(bits) if isinstance(bits, int) else max(int(one) for one in bits),
        tile_width=tile_width,
        tile_height=tile_height,
        is_tiled=bool(page.is_tiled),
        planes=planes,
        offsets=offsets,
        bytecounts=bytecounts,
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        subfiletype=int(page.subfiletype),
        orientation=int(_value(page, 274, 1)),
        extra_samples=tuple(int(one) for one in page.extrasamples),
        sample_format=int(page.sampleformat or 1),
        ink_set=int(_value(page, 332, 1)),
        resolution=_resolution(page),
        description=str(page.description),
        colour_map=np.asarray(page.colormap, np.uint16) if page.colormap is not None else None,
        jpegtables=page.jpegtables,
        subsampling=(int(page.subsampling[0]), int(page.subsampling[1])) if page.subsampling else None,
        reference_range=_reference_range(page),
        decode=page.decode,
    )


def _value(page: tifffile.TiffPage, code: int, missing: int) -> Any:  # noqa: ANN401  (of whatever type the tag has)
    tag = page.tags.get(code)
    return missing if tag is None else tag.value


def _resolution(page: tifffile.TiffPage) -> tuple[float, float, int] | None:
    """X and Y resolution and their unit; None where one of the figures is not there or no number."""
    figures = []
    for code in (282, 283):
        tag = page.tags.get(code)
        if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2 or not tag.value[1]:
            return None
        figures.append(float(tag.value[0]) / float(tag.value[1]))
    return figures[0], figures[1], int(_value(page, 296, 2))  # TIFF 6.0: the unit is the inch unless said otherwise


def _reference_range(page: tifffile.TiffPage) -> tuple[float, ...] | None:
    tag = page.tags.get(532)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 12:
        return None
    pairs = zip(tag.value[::2], tag.value[1::2], strict=True)
    return tuple(float(top) / float(bottom) if bottom else 0.0 for top, bottom in pairs)
