"""The levels of a TIFF as they lie in the file: where each tile's bytes are, and how they are coded."""

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from muse_core.slide.info import Mpp

JPEG = 7  # TIFF compression tag
JPEG_2000 = (33003, 33004, 33005, 34712)

# Errors that tifffile's parser lets through on files that are no TIFF, or a broken one.
PARSE_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, RuntimeError)

_UM_PER = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
_RESOLUTION_UNIT_UM = {2: 25400.0, 3: 10000.0}  # TIFF ResolutionUnit: inch, centimetre


@dataclass(frozen=True)
class TiffLevel:
    """One level's segments (tiles or strips) in row-major order.

    Attributes:
        width: px.
        height: px.
        channels: samples a pixel.
        bits: bits a sample.
        tile_width: px; the image width for strips.
        tile_height: px; rows a strip for strips.
        is_tiled: tiles rather than strips.
        is_plain: one plane of interleaved samples, which is what the direct ways of reading need.
        offsets: (N,) int64 byte offset of each segment.
        bytecounts: (N,) int64; 0 for a segment left out.
        compression: TIFF tag value.
        photometric: TIFF tag value.
        predictor: TIFF tag value; 1 for none.
        jpegtables: abbreviated JPEG tables shared by the tiles, or None.
        subsampling: chroma subsampling (x, y), or None where not YCbCr.
        decode: tifffile's decoder of one segment's bytes.
    """

    width: int
    height: int
    channels: int
    bits: int
    tile_width: int
    tile_height: int
    is_tiled: bool
    is_plain: bool
    offsets: NDArray[np.int64]
    bytecounts: NDArray[np.int64]
    compression: int
    photometric: int
    predictor: int
    jpegtables: bytes | None
    subsampling: tuple[int, int] | None
    decode: Callable[..., Any]

    @property
    def tiles_x(self) -> int:
        """Segments across."""
        return -(-self.width // self.tile_width)

    @property
    def tiles_y(self) -> int:
        """Segments down."""
        return -(-self.height // self.tile_height)


@dataclass(frozen=True)
class TiffSummary:
    """What tifffile says of a file.

    Attributes:
        kind: of TIFF.
        pages: every page of the file's chain, whatever it shows.
        levels: of the first image.
        mpp_candidates: figures of µm/px.
        associated: other images by name.
    """

    kind: str
    pages: tuple[TiffLevel, ...]
    levels: tuple[TiffLevel, ...]
    mpp_candidates: tuple[Mpp, ...]
    associated: dict[str, TiffLevel]


def read_tiff_summary(path: Path) -> TiffSummary:
    """Parse the headers of a TIFF; no pixels are read and the file is closed again.

    Raises:
        PARSE_ERRORS: not a TIFF, or one that makes no sense.
    """
    _keep_from_standard_error("tifffile")
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        levels = tuple(_describe(level.pages[0]) for level in series.levels)
        associated = {
            one.name.lower(): _describe(one.pages[0])
            for one in tiff.series[1:]
            if one.name and one.axes in ("YX", "YXS")
        }
        kind = "aperio" if tiff.is_svs else "ome-tiff" if tiff.is_ome else f"{series.kind}-tiff"
        pages = tuple(_describe(page) for page in tiff.pages)
        return TiffSummary(kind, pages, levels, tuple(_mpp_candidates(tiff)), associated)


def _keep_from_standard_error(name: str) -> None:
    """Give a library's logger a handler, so that its complaints go to the log where one is set up and else nowhere."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _describe(page: tifffile.TiffPage) -> TiffLevel:
    page = page.keyframe if not hasattr(page, "dataoffsets") else page
    whole = page.aspage() if hasattr(page, "aspage") else page
    return TiffLevel(
        width=int(whole.imagewidth),
        height=int(whole.imagelength),
        channels=int(whole.samplesperpixel),
        bits=int(whole.bitspersample) if isinstance(whole.bitspersample, int) else int(whole.bitspersample[0]),
        tile_width=int(whole.tilewidth) if whole.is_tiled else int(whole.imagewidth),
        tile_height=int(whole.tilelength) if whole.is_tiled else min(int(whole.rowsperstrip), int(whole.imagelength)),
        is_tiled=bool(whole.is_tiled),
        is_plain=int(whole.planarconfig) == 1 and int(whole.imagedepth) == 1,
        offsets=np.asarray(whole.dataoffsets, np.int64),
        bytecounts=np.asarray(whole.databytecounts, np.int64),
        compression=int(whole.compression),
        photometric=int(whole.photometric),
        predictor=int(whole.predictor),
        jpegtables=whole.jpegtables,
        subsampling=tuple(whole.subsampling) if whole.subsampling else None,
        decode=whole.decode,
    )


def _mpp_candidates(tiff: tifffile.TiffFile) -> list[Mpp]:
    found = []
    if tiff.is_svs:
        text = str(tifffile.tifffile.svs_description_metadata(tiff.pages[0].description).get("MPP", ""))
        found.extend(_pair(text, text, "aperio.MPP"))
    if tiff.is_ome and tiff.ome_metadata:
        found.extend(_ome_mpp(tiff.ome_metadata))
    found.extend(_resolution_mpp(tiff.pages[0]))
    return found


def _ome_mpp(xml: str) -> list[Mpp]:
    """PhysicalSizeX and Y of the first image; the unit is µm unless said otherwise.

    Source: OME schema 2016-06, Pixels element.
    """
    try:
        # The file's own metadata: the standard parser resolves no external entities.
        root = ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError:
        return []
    pixels = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return []
    unit_x = _UM_PER.get(pixels.get("PhysicalSizeXUnit", "µm"))
    unit_y = _UM_PER.get(pixels.get("PhysicalSizeYUnit", "µm"))
    if unit_x is None or unit_y is None:
        return []
    size_x = pixels.attrib["PhysicalSizeX"]
    pairs = _pair(size_x, pixels.get("PhysicalSizeY", size_x), "ome.PhysicalSizeX")
    return [Mpp(one.x * unit_x, one.y * unit_y, one.source) for one in pairs]


def _resolution_mpp(page: tifffile.TiffPage) -> list[Mpp]:
    unit = _RESOLUTION_UNIT_UM.get(int(page.resolutionunit))
    x, y = page.resolution
    if unit is None or x <= 0 or y <= 0 or (x, y) == (1, 1):
        return []
    return [Mpp(unit / x, unit / y, "tiff.XResolution")]


def _pair(x: str, y: str, source: str) -> list[Mpp]:
    try:
        return [Mpp(float(x), float(y), source)]
    except ValueError:
        return []
