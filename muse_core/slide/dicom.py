"""DICOM files by their headers: which make one slide, and what their JPEG frames hold."""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom

from muse_core.images.jpeg_colours import jpeg_colours
from muse_core.images.jpeg_markers import START
from muse_core.slide.info import Mpp

DICOM, DICOM_AT = b"DICM", 128  # what marks a file, and where
_TAGS = [
    "SeriesInstanceUID",
    "ImageType",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "Columns",
    "Rows",
    "Modality",
]
_TAGS_OF_LEVELS = [
    "NumberOfFrames",
    "DimensionOrganizationType",
    "InConcatenationNumber",
    "ImagedVolumeWidth",
    "ImagedVolumeHeight",
]
_SQUARE = 1.02  # the most by which the sides of a square pixel differ, as of µm/px that agree
_JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # JPEG baseline and extended
_HEADER_COLOURS = {"RGB": "rgb", "YBR_FULL": "ycbcr", "YBR_FULL_422": "ycbcr"}
_ELEMENT_HEADER = 12  # bytes of tag, kind and length
_ITEM_HEADER = 8
_FRAMES_LOOKED_AT = 64
_ITEM = b"\xfe\xff\x00\xe0"
_HEAD_BYTES = 1024  # holds the markers before a frame's scan
_VOLUME = 2  # the place of VOLUME, LABEL, OVERVIEW, THUMBNAIL in ImageType (DICOM PS3.3, C.8.12.4.1.1)


@dataclass(frozen=True)
class SeriesFacts:
    """What the headers of a series say.

    Attributes:
        notes: what a user should know: more frames than tiles, a finest level that is no original.
        mpp_candidates: µm/px of the finest level by the size of what was imaged.
        refusal: why it cannot be read, in words; "" where it can.
    """

    notes: tuple[str, ...] = ()
    mpp_candidates: tuple[Mpp, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class DicomFile:
    """What a file says of its place in a slide.

    Attributes:
        series: the series it belongs to.
        is_volume: it is a level rather than a label, an overview or a thumbnail.
        size: width and height of the whole picture, px.
        is_tiled: it says how large the whole picture is, as slide microscopy does.
    """

    series: str
    is_volume: bool
    size: tuple[int, int]
    is_tiled: bool


def read_dicom_file(path: Path) -> DicomFile | None:
    """The header of a file, without its pixels; None where it is no DICOM file of a series."""
    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        series = str(found.get("SeriesInstanceUID", ""))
        kind = list(found.get("ImageType", []))
        tiled = "TotalPixelMatrixColumns" in found
        width = int(found.get("TotalPixelMatrixColumns", 0) or found.get("Columns", 0) or 0)
        height = int(found.get("TotalPixelMatrixRows", 0) or found.get("Rows", 0) or 0)
    # pydicom lets many kinds of errors through on files that are damaged.
    except Exception:
        return None
    if not series:
        return None
    return DicomFile(series, len(kind) > _VOLUME and kind[_VOLUME] == "VOLUME", (width, height), tiled)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, or by its header where that is no word (`IM0001`, `1.2.840.7`)."""
    suffix = path.suffix.lower()
    if suffix[1:].isdigit() or not suffix:
        return _is_marked(path) and (found := read_dicom_file(path)) is not None and found.is_tiled
    return suffix == ".dcm"


def _is_marked(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would wait for somebody who writes
            return False
        with path.open("rb") as file:
            return file.read(DICOM_AT + len(DICOM))[DICOM_AT:] == DICOM
    except OSError:
        return False


def one_a_series(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, int]]:
    """Of each series in each folder the file of its finest level, which stands for the slide.

    Args:
        paths: DICOM files.

    Returns:
        These files, in order, files of no series among them; and for each that stands for others, how many.
    """
    series: dict[tuple[Path, str], list[tuple[Path, DicomFile]]] = {}
    kept = []
    for path in paths:
        found = read_dicom_file(path)
        if found is None:
            kept.append(path)  # opening it will say what is wrong
        else:
            series.setdefault((path.parent, found.series), []).append((path, found))
    standing: dict[Path, int] = {}
    for files in series.values():
        # The finest level; of files that share it, such as parts of a concatenation, the first.
        best = min(files, key=lambda one: (not one[1].is_volume, -one[1].size[0] * one[1].size[1], one[0]))[0]
        kept.append(best)
        if len(files) > 1:
            standing[best] = len(files) - 1
    return sorted(kept), standing


def facts_of_series(files: Sequence[Path]) -> SeriesFacts:
    """What the headers of a series say beside what OpenSlide tells of it.

    Args:
        files: the series.
    """
    headers = [found for path in files if (found := _level_header(path)) is not None]
    if not headers:
        return SeriesFacts()
    finest = max(headers, key=lambda one: int(one.TotalPixelMatrixColumns) * int(one.TotalPixelMatrixRows))
    notes = []
    across = -(-int(finest.TotalPixelMatrixColumns) // int(finest.Columns))
    down = -(-int(finest.TotalPixelMatrixRows) // int(finest.Rows))
    frames, tiles = int(finest.get("NumberOfFrames", 1)), across * down
    if frames // tiles > 1:
        notes.append(
            f"{frames // tiles} planes in focus (z) or light: the first is taken, the {tiles} tiles before others"
        )
    if "RESAMPLED" in finest.ImageType:
        notes.append("its finest level is a smaller copy by its own word: the original level is not among the files")
    is_full = finest.get("DimensionOrganizationType") == "TILED_FULL" and "InConcatenationNumber" not in finest
    refusal = (
        f"its finest level has {frames} frames where {across} x {down} tiles of {finest.Columns} x {finest.Rows} px "
        f"make {finest.TotalPixelMatrixColumns} x {finest.TotalPixelMatrixRows} px: which lies where is not known"
        if is_full and frames % tiles
        else ""
    )
    return SeriesFacts(tuple(notes), _volume_mpp(finest), refusal)


def _volume_mpp(header: pydicom.Dataset) -> tuple[Mpp, ...]:
    """µm/px by the width and height that were imaged, in mm; none where both axes differ.

    Slides are scanned in square pixels: converters that write the size of another area give themselves away so.
    """
    width, height = header.get("ImagedVolumeWidth"), header.get("ImagedVolumeHeight")
    if not width or not height:
        return ()
    x = float(width) * 1000 / int(header.TotalPixelMatrixColumns)
    y = float(height) * 1000 / int(header.TotalPixelMatrixRows)
    return (Mpp(x, y, "dicom.ImagedVolumeWidth"),) if 1 / _SQUARE < x / y < _SQUARE else ()


def _level_header(path: Path) -> pydicom.Dataset | None:
    """Of a file that is a level, the elements that tell its size and kind."""
    wanted = [*_TAGS, *_TAGS_OF_LEVELS]
    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        sizes = [
            int(found[name].value) for name in ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Columns", "Rows")
        ]
        return found if found.ImageType[_VOLUME] == "VOLUME" and all(sizes) else None
    except Exception:  # pydicom lets many kinds of errors through
        return None


def why_no_slide(path: Path) -> str:
    """Why a DICOM file is no slide that can be read, where its header tells, in words; else ""."""
    try:
        wanted = ["ImageType", "TotalPixelMatrixFocalPlanes", "Modality", "InConcatenationTotalNumber"]
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        kind = str(found.ImageType[_VOLUME]).lower() if len(found.get("ImageType", [])) > _VOLUME else ""
        planes, parts = found.get("TotalPixelMatrixFocalPlanes"), found.get("InConcatenationTotalNumber")
    except Exception:  # pydicom lets many kinds of errors through
        return ""
    if kind in ("label", "overview", "thumbnail"):
        return f"it is the {kind} of a slide, and no level of that slide lies beside it"
    if planes is not None and int(planes) > 1:
        return f"it holds {int(planes)} planes in focus (z), and slides of one are read: export the plane that is meant"
    if parts is not None:
        return f"it is one of {int(parts)} parts of a level; all of them are needed beside it"
    return ""


def contradicted_colours(path: Path) -> str | None:
    """What the JPEG frames of a file hold, "rgb", "ycbcr" or "both", where its own header says another; else None.

    Some converters write YCbCr frames (JFIF) under a header that says RGB; decoders go by the header.
    """
    try:
        with path.open("rb") as file:
            found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PhotometricInterpretation"])
            syntax = str(found.file_meta.TransferSyntaxUID)
            heads = list(_frame_heads(file)) if syntax in _JPEG_SYNTAXES else []
            said = _HEADER_COLOURS.get(str(found.get("PhotometricInterpretation", "")))
    except Exception:
        return None
    if said is None:
        return None
    streams = {jpeg_colours(head, None, tag_is_ycbcr=said == "ycbcr").colours for head in heads}
    streams &= {"rgb", "ycbcr"}
    if len(streams) > 1:
        return "both"
    return next((one for one in streams if one != said), None)


def _frame_heads(file: BinaryIO) -> Iterator[bytes]:
    """The first bytes of the first encapsulated frames; the file stands at the pixel data (DICOM PS3.5, annex A.4)."""
    file.seek(_ELEMENT_HEADER, os.SEEK_CUR)
    for number in range(1 + _FRAMES_LOOKED_AT):  # the table of offsets, then fragments
        item = file.read(_ITEM_HEADER)
        if len(item) < _ITEM_HEADER or item[:4] != _ITEM:
            return
        end = file.tell() + struct.unpack("<I", item[4:])[0]
        head = file.read(min(end - file.tell(), _HEAD_BYTES))
        if number and head.startswith(START):  # else a further fragment of a frame
            yield head
        file.seek(end)
