"""Patch image files to RGB, or the reason why not: what stain separation cannot use is refused."""

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from muse_core.errors import DatasetError, SlideReadError
from muse_core.images.jpeg_markers import START
from muse_core.images.orientation import exif_orientation, upright
from muse_core.images.pixels import more_than_8_bits, to_rgb

FORMATS = ("PNG", "JPEG", "TIFF")
SMALLEST_SIDE_PX = 32  # less shows no nucleus with its surroundings at any usual µm/px
LARGEST_PX = 8192 * 8192  # decoded whole: 200 MB; larger ones are slides
GLASS_GREY = 200  # an image without colour that is nowhere darker is a patch of empty glass

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error, zlib.error)
_PNG = b"\x89PNG\r\n\x1a\n"  # how each begins
_KEEPS_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"})


@dataclass(frozen=True)
class PatchImage:
    """A decoded patch.

    Attributes:
        rgb: (H, W, 3) uint8, in the order that the file stores its pixels.
        format: PNG, JPEG (MPO from some cameras) or TIFF.
        md5: of the file, 32 hex digits.
    """

    rgb: NDArray[np.uint8]
    format: str
    md5: str


def decode_patch(path: Path) -> PatchImage:
    """Read a patch image whole.

    A palette becomes its colours; what is transparent becomes white, as glass is. An orientation in EXIF is not
    applied: coordinates are those of the pixels as they are stored, as annotation tools count them.

    Raises:
        SlideReadError: not_found, no_access; unreadable: empty, truncated or not an image; not_colour: grey, CMYK and
            the like; not_8_bit; several_images; too_small; too_large.
    """
    data = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on odd metadata and on large images, which are checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check(path, image)
                rgb = _rgb(image)
                kind = image.format or "TIFF"
    except SlideReadError:
        raise
    except UnidentifiedImageError:
        raise SlideReadError(f"{path}: {len(data)} bytes that are no PNG, JPEG or TIFF; replace or delete it") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except _DECODE_ERRORS as error:
        raise SlideReadError(f"{path}: damaged or not whole ({error}); replace or delete it") from None
    if _is_grey(rgb):
        raise _not_colour(path, "all pixels are grey")
    return PatchImage(rgb, kind, hashlib.md5(data, usedforsecurity=False).hexdigest())


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SlideReadError(f"{path}: no such file, or a link to none", reason="not_found") from None
    except OSError as error:
        raise SlideReadError(f"{path}: {error.strerror or error}; make it readable", reason="no_access") from None
    if not data:
        raise SlideReadError(f"{path}: empty, 0 bytes; replace or delete it")
    return data


def _check(path: Path, image: Image.Image) -> None:
    """Refuse by the header, before any pixel is decoded."""
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE_PX:
        message = f"{path}: {width} x {height} px; at least {SMALLEST_SIDE_PX} px a side needed"
        raise SlideReadError(message, reason="too_small")
    if width * height > LARGEST_PX:
        raise _too_large(path)
    if image.format in ("PNG", "TIFF") and (pages := getattr(image, "n_frames", 1)) > 1:
        message = f"{path}: holds {pages} images; save the one meant, or build slides with muse build-tcga-nu"
        raise SlideReadError(message, reason="several_images")
    if more_than_8_bits(image):
        message = f"{path}: more than 8 bits a channel, and its white is not known; save it as 8-bit RGB"
        raise SlideReadError(message, reason="not_8_bit")
    if image.mode not in _KEEPS_COLOUR:
        raise _not_colour(path, f"mode {image.mode}")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.has_transparency_data:
        glass = Image.new("RGBA", image.size, "white")
        glass.alpha_composite(image.convert("RGBA"))
        return np.asarray(glass.convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return bool(red.min() < GLASS_GREY and np.array_equal(red, green) and np.array_equal(red, blue))


def _not_colour(path: Path, found: str) -> SlideReadError:
    return SlideReadError(
        f"{path}: {found}; stains are told apart by colour, which needs 8-bit RGB: export the image in colour",
        reason="not_colour",
    )


def _too_large(path: Path) -> SlideReadError:
    message = f"{path}: more than {LARGEST_PX:,} px; build large images as slides with muse build-tcga-nu"
    return SlideReadError(message, reason="too_large")


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB; grey becomes RGB, and what is transparent white, as in inference.

    It is turned as its EXIF says, as slides are.

    Raises:
        DatasetError: no such file, not an image or not all of one, or one of more than 8 bits a channel.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: no image ({error.strerror}); is --data the dataset's folder?") from None
    if data.startswith(_PNG) and not _is_whole_png(data):
        raise DatasetError(f"{path}: a PNG that is damaged or not whole; replace it")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise DatasetError(f"{path}: not an image that can be decoded; PNG, JPEG or TIFF needed")
    if image.dtype != np.uint8:
        raise DatasetError(f"{path}: {image.dtype} a channel, and its white is not known; save it as 8-bit RGB")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return upright(to_rgb(image), _orientation(data))


def _orientation(data: bytes) -> int:
    """Of a PNG or JPEG what its EXIF says, which the decoder here passes over; 1 of any other format."""
    if not data.startswith((_PNG, START)):
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on odd metadata and on large images
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                return exif_orientation(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DECODE_ERRORS):
        return 1  # Pillow is pickier about a header than the decoder that had the pixels


def _is_whole_png(data: bytes) -> bool:
    """Whether all chunks that a picture needs are there and undamaged; libpng would print a line of its own."""
    at = len(_PNG)
    while at + 12 <= len(data):  # length, kind, content, checksum
        end = at + 8 + int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False
