"""PNG and JPEG images as slides of one level, decoded whole and shared by all handles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from PIL import Image

from muse_core.errors import SlideReadError
from muse_core.images.decode import opened_image, rgb_of
from muse_core.images.orientation import exif_orientation
from muse_core.images.pixels import Pixels
from muse_core.slide.reader import Corner, Source, make_levels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST_PX = 16_384 * 16_384  # 800 MB decoded; larger ones are slides and want a tiled format

_FORMATS = ("PNG", "JPEG")


class ImageReader:
    """A handle on an image in memory."""

    name = "pillow"

    def __init__(self, pixels: Pixels, kind: str) -> None:
        """Made by `ImageFile`."""
        self._pixels = pixels
        height, width = pixels.shape[:2]
        self.source = Source(vendor=kind, levels=make_levels([(width, height)], [(0, 0)]), mpp_candidates=())

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the image, (height, width, 3); see `Reader.read`."""
        x, y = corner
        return self._pixels[y : y + height, x : x + width].copy()

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """One after another; see `Reader.read_many`."""
        for corner in corners:
            yield self.read(corner, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """There is none."""
        raise SlideReadError(f"pillow: no associated image {name!r}")

    def close(self) -> None:
        """Nothing to give back: the pixels go with the last handle."""


class ImageFile:
    """Opens handles on one image, which is decoded when the first one is asked for, upright by its EXIF."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path
        self._lock = Lock()
        self._decoded: tuple[Pixels, str] | None = None
        self.orientation = 1
        self.pictures = 1

    def open(self) -> ImageReader:
        """A handle.

        Raises:
            SlideReadError: it is no PNG or JPEG image, damaged, too large, or not of 8 bits a channel, see its reason.
        """
        with self._lock:
            if self._decoded is None:
                with _opened(self._path) as image:
                    self._decoded = rgb_of(image, self._path), (image.format or "image").lower()
                    self.orientation, self.pictures = exif_orientation(image), getattr(image, "n_frames", 1)
        return ImageReader(*self._decoded)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with opened_image(path, formats=_FORMATS) as image:
        if image.width * image.height > LARGEST_PX:
            message = f"{path}: {image.width} x {image.height} px; at most {LARGEST_PX:,} px fit in memory"
            raise SlideReadError(message, reason="too_large")
        yield image
