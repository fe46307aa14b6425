"""DICOM files by their headers: which make one slide, and what their JPEG frames hold."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom

from muse_core.images.jpeg_colours import jpeg_colours
from muse_core.images.jpeg_markers import START

_TAGS = [
    "SeriesInstanceUID",
    "ImageType",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "Columns",
    "Rows",
    "Modality",
]
_JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # JPEG baseline and extended
_HEADER_COLOURS = {"RGB": "rgb", "YBR_FULL": "ycbcr", "YBR_FULL_422": "ycbcr"}
_ELEMENT_HEADER = 12  # bytes of tag, kind and length
_ITEM = b"\xfe\xff\x00\xe0"
_HEAD_BYTES = 1024  # holds the markers before a frame's scan
_VOLUME = 2  # the place of VOLUME, LABEL, OVERVIEW, THUMBNAIL in ImageType (DICOM PS3.3, C.8.12.4.1.1)


@dataclass(frozen=True)
class DicomFile:
    """What a file says of its place in a slide.

    Attributes:
        series: the series it belongs to.
        is_volume: it is a level rather than a label, an overview or a thumbnail.
        pixels: of the whole picture.
    """

    series: str
    is_volume: bool
    pixels: int


def read_dicom_file(path: Path) -> DicomFile | None:
    """The header of a file, without its pixels; None where it is no DICOM file of a series."""
    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        series = str(found.get("SeriesInstanceUID", ""))
        kind = list(found.get("ImageType", []))
        width = int(found.get("TotalPixelMatrixColumns", 0) or found.get("Columns", 0) or 0)
        height = int(found.get("TotalPixelMatrixRows", 0) or found.get("Rows", 0) or 0)
    # pydicom lets many kinds of errors through on files that are damaged.
    except Exception:
        return None
    if not series:
        return None
    return DicomFile(series, len(kind) > _VOLUME and kind[_VOLUME] == "VOLUME", width * height)


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
        best = min(files, key=lambda one: (not one[1].is_volume, -one[1].pixels, one[0]))[0]
        kept.append(best)
        if len(files) > 1:
            standing[best] = len(files) - 1
    return sorted(kept), standing


def notes_of_dicom(files: Sequence[Path]) -> list[str]:
    """What is to be said of a series: more frames than tiles, a finest level that is no original.

    Args:
        files: the series.
    """
    headers = [found for path in files if (found := _level_header(path)) is not None]
    if not headers:
        return []
    finest = max(headers, key=lambda one: int(one.TotalPixelMatrixColumns) * int(one.TotalPixelMatrixRows))
    notes = []
    across = -(-int(finest.TotalPixelMatrixColumns) // int(finest.Columns))
    down = -(-int(finest.TotalPixelMatrixRows) // int(finest.Rows))
    planes = int(finest.get("NumberOfFrames", 1)) // (across * down)
    if planes > 1:
        notes.append(
            f"{planes} planes in focus (z) or light: the first is taken, the {across * down} tiles before others"
        )
    if "RESAMPLED" in finest.ImageType:
        notes.append("its finest level is a smaller copy by its own word: the original level is not among the files")
    return notes


def _level_header(path: Path) -> pydicom.Dataset | None:
    """Of a file that is a level, the elements that tell its size and kind."""
    wanted = [*_TAGS, "NumberOfFrames"]
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
    """What the JPEG frames of a file hold, "rgb" or "ycbcr", where its own header says the other; else None.

    Some converters write YCbCr frames (JFIF) under a header that says RGB; decoders go by the header.
    """
    try:
        with path.open("rb") as file:
            found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PhotometricInterpretation"])
            syntax = str(found.file_meta.TransferSyntaxUID)
            head = _first_frame(file) if syntax in _JPEG_SYNTAXES else b""
            said = str(found.get("PhotometricInterpretation", ""))
    except Exception:
        return None
    if not head.startswith(START) or said not in _HEADER_COLOURS:
        return None
    stream = jpeg_colours(head, None, tag_is_ycbcr=_HEADER_COLOURS[said] == "ycbcr").colours
    return stream if stream in ("rgb", "ycbcr") and stream != _HEADER_COLOURS[said] else None


def _first_frame(file: BinaryIO) -> bytes:
    """The first bytes of the first encapsulated frame; the file stands at the pixel data (DICOM PS3.5, annex A.4)."""
    file.seek(_ELEMENT_HEADER, os.SEEK_CUR)
    for _ in range(2):  # the table of offsets, then the first fragment
        tag, length = struct.unpack("<4sI", file.read(8))
        if tag != _ITEM:
            return b""
        start = file.tell()
        file.seek(length, os.SEEK_CUR)
    file.seek(start)
    return file.read(min(length, _HEAD_BYTES))
