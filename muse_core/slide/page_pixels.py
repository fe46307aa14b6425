"""From the bytes of a TIFF page's segment to RGB: which pages can be converted, and how."""

import os
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.images.jpeg2000_colours import is_still_ycbcr
from muse_core.images.jpeg_colours import JpegColours, jpeg_colours, with_marker
from muse_core.images.pixels import WHITE, Pixels, ycbcr_to_rgb
from muse_core.images.strict_jpeg import decode_strictly
from muse_core.slide.tiff_pages import (
    GREY,
    GREY_WHITE_IS_ZERO,
    JPEG,
    JPEG_2000,
    PALETTE,
    PARSE_ERRORS,
    RGB,
    SEPARATED,
    YCBCR,
    TiffPage,
)

_SCAN = b"\xff\xda"  # what coded data begin with
HEAD_BYTES = 1024  # holds the markers before a tile's scan
LARGEST_SEGMENT_PX = 1 << 26  # 200 MB decoded; larger strips or tiles want a file that is cut smaller

_CODECS = {
    1: "uncompressed",
    2: "CCITT",
    3: "CCITT T.4",
    4: "CCITT T.6",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34926: "Zstandard",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_COLOURS = {0: "white-is-zero grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_WHOLE_PICTURES = (33003, 33004, 33005, 34712, 34892, 34927, 34933, 34934, 50001, 50002, 52546)  # codecs of RGB itself
_APERIO_YCBCR, _APERIO_RGB = 33003, 33005
_CHANNELS = {GREY_WHITE_IS_ZERO: 1, GREY: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}


def codec_name(page: TiffPage) -> str:
    """The compression in words, with its predictor."""
    name = _CODECS.get(page.compression, f"compression {page.compression}")
    return f"{name} with predictor {page.predictor}" if page.predictor != 1 else name


def colours_name(page: TiffPage) -> str:
    """The photometric interpretation in words."""
    return _COLOURS.get(page.photometric, f"photometric {page.photometric}")


def refusal_of(page: TiffPage) -> str | None:
    """Why a page cannot be converted to RGB, in words that follow its name; None where it can."""
    if page.width < 1 or page.height < 1 or page.tile_width < 1 or page.tile_height < 1:
        return f"is {page.width} x {page.height} px in segments of {page.tile_width} x {page.tile_height} px"
    if page.compression not in _CODECS:
        return f"is of compression {page.compression}, which is unknown"
    if page.sample_format not in (1, 4) or page.bits != 8:
        kind = {2: "signed ", 3: "floating-point "}.get(page.sample_format, "")
        return f"has {kind}samples of {page.bits} bits; 8-bit RGB or grey is needed: save it so"
    if page.photometric not in _CHANNELS:
        return f"is {colours_name(page)}; save it as RGB"
    if page.photometric == SEPARATED and (page.ink_set != 1 or page.compression == JPEG):
        return f"is {codec_name(page)} in inks that are no plain CMYK; save it as RGB"
    own, extra = _CHANNELS[page.photometric], len(page.extra_samples)
    if page.channels not in (own, own + extra) or extra > 1:
        return f"has {page.channels} channels of {colours_name(page)}; save it as RGB"
    if page.photometric == PALETTE and (page.colour_map is None or page.compression == JPEG):
        return f"is {codec_name(page)} with a palette that is of no use; save it as RGB"
    if page.photometric == YCBCR and page.compression != JPEG and page.compression not in _WHOLE_PICTURES:
        if page.subsampling not in (None, (1, 1)):
            return f"is {codec_name(page)} YCbCr with subsampled chroma; save it as RGB"
        if page.reference_range not in (None, (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)):
            return "is YCbCr of a narrowed range; save it as RGB"
    if page.tile_width * page.tile_height > LARGEST_SEGMENT_PX:
        return (
            f"is one piece of {page.tile_width} x {page.tile_height} px; save it in tiles "
            "(vips tiffsave --tile --pyramid)"
        )
    if page.offsets.size != page.tiles_x * page.tiles_y * page.planes or page.bytecounts.size != page.offsets.size:
        return f"names {page.offsets.size} segments where {page.tiles_x} x {page.tiles_y} are needed; it is damaged"
    return None


def first_head(page: TiffPage, descriptor: int) -> bytes:
    """The first bytes of the first segment that has any."""
    filled = page.bytecounts.nonzero()[0]
    if not filled.size:
        return b""
    first = int(filled[0])
    return os.pread(descriptor, min(HEAD_BYTES, int(page.bytecounts[first])), int(page.offsets[first]))


def page_colours(page: TiffPage, path: Path) -> JpegColours | None:
    """What the JPEG segments of a page hold, judged by the first; None for other compressions.

    Raises:
        OSError: the file cannot be read.
    """
    if page.compression != JPEG or page.channels != 3 or not page.is_plain:
        return None
    with path.open("rb", buffering=0) as file:
        head = first_head(page, file.fileno())
    return jpeg_colours(head, page.jpegtables, tag_is_ycbcr=page.photometric == YCBCR)


def decode_segment(page: TiffPage, data: bytes, index: int) -> Pixels:
    """One tile or strip as RGB.

    Args:
        page: one that `refusal_of` has nothing against, of one plane.
        data: the segment's bytes.
        index: its number.

    Returns:
        (H, W, 3) uint8; at the image's edges it may be smaller than a tile.

    Raises:
        SlideReadError: it cannot be decoded.
    """
    return _to_rgb(page, _samples(page, data, index))


def decode_planes(page: TiffPage, planes: list[bytes], index: int) -> Pixels:
    """The same for a page whose samples lie in planes: one segment a plane, of one place."""
    per_plane = page.tiles_x * page.tiles_y
    samples = [_samples(page, data, plane * per_plane + index) for plane, data in enumerate(planes)]
    return _to_rgb(page, np.concatenate(samples, axis=2))


def _samples(page: TiffPage, data: bytes, index: int) -> NDArray[np.uint8]:
    """The samples as they are stored, (H, W, C) uint8; of JPEG and JPEG 2000 the RGB."""
    try:
        if page.compression == JPEG and page.channels == 3 and page.is_plain:
            return _jpeg_rgb(page, data)
        if page.compression == JPEG and (page.channels == 1 or not page.is_plain):
            return decode_strictly(with_marker(data, page.jpegtables, "grey"), "GRAY")
        if page.compression == JPEG:
            grey = imagecodecs.jpeg8_decode(data, tables=page.jpegtables)
            return np.asarray(grey, np.uint8).reshape(*grey.shape[:2], -1)
        if page.compression in JPEG_2000 and page.channels == 3 and page.is_plain:
            return _jpeg_2000_rgb(page, data)
        decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
    except PARSE_ERRORS as error:
        raise SlideReadError(f"segment {index}: {error}") from error
    if decoded is None or decoded.dtype != np.uint8 or decoded.ndim != 4:
        raise SlideReadError(f"segment {index} holds no 8-bit samples")
    samples: NDArray[np.uint8] = decoded[0]
    return samples


def _jpeg_rgb(page: TiffPage, data: bytes) -> NDArray[np.uint8]:
    scan = max(data.find(_SCAN, 0, HEAD_BYTES), 0)
    header = _whole_header(data[:scan] if scan else data[:HEAD_BYTES], page.jpegtables, page.photometric == YCBCR)
    return decode_strictly(header + data[scan or HEAD_BYTES :], "RGB")


def _jpeg_2000_rgb(page: TiffPage, data: bytes) -> NDArray[np.uint8]:
    samples = np.asarray(imagecodecs.jpeg2k_decode(data))
    if samples.dtype != np.uint8 or samples.ndim != 3:
        raise ValueError(f"holds no 8-bit colours but {samples.dtype} {samples.shape}")
    said = page.compression == _APERIO_YCBCR or (page.photometric == YCBCR and page.compression != _APERIO_RGB)
    return ycbcr_to_rgb(samples) if is_still_ycbcr(data, said_to_be=said) else samples


@lru_cache(maxsize=64)  # the tiles of a page have one header, mostly, and taking it apart costs a third of decoding
def _whole_header(head: bytes, tables: bytes | None, tag_is_ycbcr: bool) -> bytes:
    """The first bytes of a stream with the shared tables, and a marker that says what its components are."""
    return with_marker(head, tables, jpeg_colours(head, tables, tag_is_ycbcr=tag_is_ycbcr).colours)


def _to_rgb(page: TiffPage, samples: NDArray[np.uint8]) -> Pixels:
    own = _CHANNELS[page.photometric]
    if samples.shape[2] < own:
        raise SlideReadError(f"{samples.shape[2]} channels where {own} are needed")
    colour = samples[:, :, :own]
    if page.photometric == GREY_WHITE_IS_ZERO:
        colour = 255 - colour
    elif page.photometric == PALETTE and page.colour_map is not None:
        colour = (page.colour_map >> 8).astype(np.uint8).T[colour[:, :, 0]]
    elif page.photometric == SEPARATED:
        colour = _from_cmyk(colour)
    elif page.photometric == YCBCR and _is_raw(page):
        colour = ycbcr_to_rgb(colour)
    if page.extra_samples and page.extra_samples[0] in (1, 2) and samples.shape[2] > own:
        colour = _over_white(colour, samples[:, :, own : own + 1], premultiplied=page.extra_samples[0] == 1)
    return colour if colour.shape[2] == 3 else np.repeat(colour, 3, axis=2)


def _is_raw(page: TiffPage) -> bool:
    """Whether the codec knows nothing of colours, so that what comes out is what the tag says."""
    return page.compression != JPEG and page.compression not in _WHOLE_PICTURES


def _from_cmyk(inks: NDArray[np.uint8]) -> Pixels:
    """Without a profile: each ink and black take away light one after the other (TIFF 6.0, section 16)."""
    light = 255 - inks.astype(np.uint16)
    return ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)


def _over_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool) -> NDArray[np.uint8]:
    opaque = alpha.astype(np.uint16)
    own = colour.astype(np.uint16) * 255 if premultiplied else colour.astype(np.uint16) * opaque
    return np.asarray(np.minimum((own + WHITE * (255 - opaque) + 127) // 255, 255), np.uint8)
