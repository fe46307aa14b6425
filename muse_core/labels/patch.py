"""One image with classified dots, whatever dataset it comes from, and the decoding of image files."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.slide.reader import to_rgb

SPLITS = ("train", "val", "test")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Surround:
    """A larger image of the same µm/px that holds a patch.

    Attributes:
        path: its file.
        x_px: where the patch's left edge lies in it.
        y_px: where its top edge lies.
    """

    path: Path
    x_px: int
    y_px: int


@dataclass(frozen=True)
class LabelledPatch:
    """One image with its labelled nuclei.

    Attributes:
        name: the image's file name without its ending.
        image: (H, W, 3) uint8 RGB.
        xy: (N, 2) float32 x, y, continuous px of the image: the centre of the top-left pixel is (0.5, 0.5).
        class_ids: (N,) int64, index into `class_names`.
        class_names: what the ids mean.
        mpp: µm/px of the image, both axes.
        slide_mpp: µm/px of the slide's finest level, where the layout says it.
        surround: what lies around the patch, where the layout has it.
    """

    name: str
    image: NDArray[np.uint8]
    xy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    mpp: float
    slide_mpp: float | None = None
    surround: Surround | None = None


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB; grey becomes RGB, and what is transparent white, as in inference.

    An orientation in EXIF is not applied: coordinates are those of the pixels as they are stored.

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
    return to_rgb(image)


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
