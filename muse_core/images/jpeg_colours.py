"""What the samples of a JPEG stream are: its own markers against the tag of the TIFF or DICOM file around it.

One rule for whoever decodes or copies a tile. Of three components: an Adobe marker says it outright, a JFIF marker
means YCbCr, components named R, G and B mean RGB, subsampled ones YCbCr; where the stream says nothing, the file's tag
does.

Source: JFIF 1.02 (YCbCr only); libjpeg's libjpeg.txt, "Special markers", for the ranks; ITU-T T.81, annex B.2.2, for
the frame header; TIFF Technical Note 2.
"""

from dataclasses import dataclass
from typing import Literal

from muse_core.images.jpeg_markers import FRAMES, Segment, segments

Colours = Literal["rgb", "ycbcr", "grey", "other"]

_ADOBE, _JFIF = 0xEE, 0xE0
_ADOBE_RGB = bytes.fromhex("ffee000e41646f626500640000000000")  # an Adobe marker whose transform is 0: RGB
_ADOBE_YCBCR = _ADOBE_RGB[:-1] + b"\1"
_START_BYTES = 2


@dataclass(frozen=True)
class JpegColours:
    """What a stream holds.

    Attributes:
        colours: of its samples.
        by: what said so: "Adobe marker", "JFIF marker", "component names", "subsampled chroma", "tag", "frame header".
        subsampling: chroma subsampling (x, y); None where the frame header is not among the bytes, or not YCbCr.
    """

    colours: Colours
    by: str
    subsampling: tuple[int, int] | None


def jpeg_colours(head: bytes, tables: bytes | None, *, tag_is_ycbcr: bool) -> JpegColours:
    """The colours of a stream.

    Args:
        head: its first bytes, with all markers before the scan.
        tables: the abbreviated stream of tables that goes before it, or None.
        tag_is_ycbcr: what the file around it says of three components.
    """
    found = [*_segments(tables or b""), *_segments(head)]
    frame = next((body for segment, body in found if segment.marker in FRAMES), b"")
    components = frame[5] if len(frame) > 5 else 3
    if components != 3:
        return JpegColours("grey" if components == 1 else "other", "frame header", None)
    colours, by = _of_three(found, frame, tag_is_ycbcr=tag_is_ycbcr)
    return JpegColours(colours, by, _subsampling(frame) if colours == "ycbcr" else None)


def with_marker(stream: bytes, tables: bytes | None, colours: Colours) -> bytes:
    """A whole stream that tells any decoder what its three components are: tables and marker put after its start."""
    shared = tables[_START_BYTES:-2] if tables else b""
    marker = {"rgb": _ADOBE_RGB, "ycbcr": _ADOBE_YCBCR}.get(colours, b"")
    return stream[:_START_BYTES] + marker + shared + _without_markers(stream)


def _of_three(found: list[tuple[Segment, bytes]], frame: bytes, *, tag_is_ycbcr: bool) -> tuple[Colours, str]:
    adobe = next((body for segment, body in found if segment.marker == _ADOBE and body[:5] == b"Adobe"), b"")
    if len(adobe) > 11:
        return ("rgb" if adobe[11] == 0 else "ycbcr"), "Adobe marker"
    if any(segment.marker == _JFIF and body[:5] == b"JFIF\0" for segment, body in found):
        return "ycbcr", "JFIF marker"
    if frame[6::3][:3] == b"RGB":
        return "rgb", "component names"
    if _subsampling(frame) not in (None, (1, 1)):
        return "ycbcr", "subsampled chroma"  # nobody halves green and blue
    return ("ycbcr" if tag_is_ycbcr else "rgb"), "tag"


def _subsampling(frame: bytes) -> tuple[int, int] | None:
    if len(frame) < 11 or not (frame[10] >> 4 and frame[10] & 15):
        return None
    luma, chroma = frame[7], frame[10]  # sampling factors, 4 bits along x and 4 along y
    return (luma >> 4) // (chroma >> 4), (luma & 15) // (chroma & 15)


def _segments(head: bytes) -> list[tuple[Segment, bytes]]:
    """The segments with what they hold; none of a stream that is broken there, so that the tag is all there is."""
    try:
        return [(one, one.body(head)) for one in segments(head)]
    except ValueError:
        return []


def _without_markers(stream: bytes) -> bytes:
    """What follows a stream's start, without the JFIF and Adobe markers that would contradict one put before it."""
    kept, at = b"", _START_BYTES
    try:
        for one in segments(stream):
            if one.marker in (_ADOBE, _JFIF):
                kept += stream[at : one.start]
                at = one.end
    except ValueError:
        pass
    return kept + stream[at:]
