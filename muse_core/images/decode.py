"""Image files to RGB, decoded in one way for slides, patches and labels, or the reason why not in one line.

A picture is turned as its EXIF or TIFF tag says: coordinates are those of what is seen.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from muse_core.errors import DatasetError, SlideReadError
from muse_core.images.orientation import STEPS, exif_orientation, upright
from muse_core.images.pixels import Pixels, more_than_8_bits, to_rgb
from muse_core.images.strict_jpeg import DecodedColours, decode_file_strictly
from muse_core.machine.files import md5_of

FORMATS = ("PNG", "JPEG", "TIFF")
SMALLEST_SIDE_PX = 32  # of a patch: less shows no nucleus with its surroundings at any usual µm/px
LARGEST_PX = 8192 * 8192  # of a patch, decoded whole: 200 MB; larger ones are slides
GLASS_GREY = 200  # an image without colour that is nowhere darker is a patch of empty glass

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error, zlib.error)
_PNG = b"\x89PNG\r\n\x1a\n"  # how each begins
_KEEPS_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"})
_READ_BYTES = 1 << 20
_OF_MODES: dict[str, DecodedColours] = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@contextmanager
def opened_image(path: Path, *, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """An image whose header is read and whose pixels are not yet; what is wrong with it while it is used is one line.

    Args:
        path: the file.
        formats: those that it may have, by Pillow's names.

    Raises:
        SlideReadError: not_found, no_access; unreadable: empty, not whole or not an image; too_large for Pillow.
    """
    source = _checked(path)
    names = ", ".join(formats[:-1]) + f" or {formats[-1]}" if len(formats) > 1 else formats[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on odd metadata and on large images, which are checked here
            with Image.open(source, formats=formats) as image:
                yield image
    except UnidentifiedImageError:
        raise SlideReadError(f"{path}: {path.stat().st_size} bytes that are no {names}; replace or delete it") from None
    except Image.DecompressionBombError:
        message = f"{path}: more px than can be decoded whole; save it as a tiled slide"
        raise SlideReadError(message, reason="too_large") from None
    except SlideReadError:
        raise
    except _DECODE_ERRORS as error:
        raise SlideReadError(f"{path}: damaged or not whole ({error}); replace or delete it") from None


def rgb_of(image: Image.Image, path: Path) -> Pixels:
    """Decode an opened image to (H, W, 3) uint8 RGB, upright.

    Grey and palettes become their colours; what is transparent becomes white, as glass is.

    Raises:
        SlideReadError: not_8_bit.
    """
    if more_than_8_bits(image):
        message = f"{path}: more than 8 bits a channel, and its white is not known; save it as 8-bit RGB"
        raise SlideReadError(message, reason="not_8_bit")
    # A copy that may be written on: torch warns of others.
    stored = _jpeg_rgb(image, path)
    if stored is None:
        stored = to_rgb(np.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))
    return upright(stored, exif_orientation(image))  # asked after decoding: Pillow turns TIFF by itself, and forgets it


def _jpeg_rgb(image: Image.Image, path: Path) -> Pixels | None:
    """The pixels of a JPEG, decoded strictly, for Pillow says nothing of damage; None of other formats.

    Raises:
        SlideReadError: inks, and no word on which end of their scale is none.
    """
    colours = _OF_MODES.get(image.mode) if image.format in ("JPEG", "MPO") else None
    if colours is None:
        return None
    if colours == "CMYK" and "adobe" not in image.info:
        raise SlideReadError(f"{path}: CMYK that doesn't say whether its inks are inverted; save it as RGB")
    samples = decode_file_strictly(path.read_bytes(), colours)
    if colours != "CMYK":
        return to_rgb(samples)
    light = samples.astype(np.uint16)  # Adobe stores what each ink leaves of the light
    return ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)


def read_rgb(path: Path) -> Pixels:
    """Decode an image of a labelled dataset to (H, W, 3) uint8 RGB, see `rgb_of`.

    Raises:
        DatasetError: no such file, not an image or not all of one, or one of more than 8 bits a channel.
    """
    try:
        with opened_image(path) as image:
            return rgb_of(image, path)
    except SlideReadError as error:
        hint = "; is --data the dataset's folder?" if error.reason == "not_found" else ""
        raise DatasetError(f"{error}{hint}") from None


def size_px(path: Path) -> tuple[int, int]:
    """Width and height of an image of a labelled dataset, upright, by its header.

    Raises:
        DatasetError: no such file, or not an image.
    """
    try:
        with opened_image(path) as image:
            swapped = image.format != "TIFF" and STEPS[exif_orientation(image)][0]  # Pillow turns TIFF by itself
            return (image.height, image.width) if swapped else image.size
    except SlideReadError as error:
        raise DatasetError(str(error)) from None


@dataclass(frozen=True)
class PatchImage:
    """A decoded patch.

    Attributes:
        rgb: (H, W, 3) uint8, upright.
        format: PNG, JPEG (MPO from some cameras) or TIFF.
        md5: of the file, 32 hex digits.
    """

    rgb: NDArray[np.uint8]
    format: str
    md5: str


def decode_patch(path: Path) -> PatchImage:
    """Read a patch image whole; what stain separation cannot use is refused.

    Raises:
        SlideReadError: not_found, no_access; unreadable: empty, truncated or not an image; not_colour: grey, CMYK and
            the like; not_8_bit; several_images; too_small; too_large.
    """
    with opened_image(path) as image:
        _check(path, image)
        rgb = rgb_of(image, path)
        kind = image.format or "TIFF"
    if _is_grey(rgb):
        raise _not_colour(path, "all pixels are grey")
    return PatchImage(rgb, kind, md5_of(path))


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
    if not more_than_8_bits(image) and image.mode not in _KEEPS_COLOUR:
        raise _not_colour(path, f"mode {image.mode}")


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


def _checked(path: Path) -> Path | BytesIO:
    """What to decode, in place of a file that cannot be opened or a PNG that is not all there.

    Decoders differ in what they make of a damaged PNG, so that its chunks are looked at first: those that a picture
    needs must be whole, and others that are not are left out.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_PNG))
            odd = _odd_chunks(file) if start == _PNG else []
    except FileNotFoundError:
        raise SlideReadError(f"{path}: no such file, or a link to none", reason="not_found") from None
    except OSError as error:
        raise SlideReadError(f"{path}: {error.strerror or error}; make it readable", reason="no_access") from None
    if not start:
        raise SlideReadError(f"{path}: empty, 0 bytes; replace or delete it")
    if odd is None:
        raise SlideReadError(f"{path}: a PNG that is damaged or not whole; replace or delete it")
    return _without(path, odd) if odd else path


def _odd_chunks(file: BinaryIO) -> list[tuple[int, int]] | None:
    """Chunks of a PNG that no picture needs and that are damaged, by start and end; None where a needed one is."""
    odd = []
    while len(head := file.read(8)) == 8:  # length, kind; then content and checksum
        start, left, kind = file.tell() - 8, int.from_bytes(head[:4]), head[4:]
        checksum = zlib.crc32(kind)
        while left and (content := file.read(min(left, _READ_BYTES))):
            checksum, left = zlib.crc32(content, checksum), left - len(content)
        stored = file.read(4)
        if left or len(stored) < 4:
            return None
        if checksum != int.from_bytes(stored):
            if kind[:1].isupper():
                return None
            odd.append((start, file.tell()))
        if kind == b"IEND":
            return odd
    return None


def _without(path: Path, spans: list[tuple[int, int]]) -> BytesIO:
    data = path.read_bytes()
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(data)]
    return BytesIO(b"".join(data[end:start] for end, start in zip(ends, starts, strict=True)))
