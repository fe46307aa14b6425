"""Pictures of a slide for the page: square tiles of a pyramid that halves from level 0, through our readers.

Few slides are open at a time, few tiles are decoded at a time, and the JPEG files kept have a limit in bytes: memory
does not grow with the slides looked at.
"""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from muse_core.errors import SlideReadError
from muse_core.images.pixels import Pixels
from muse_core.slide import Slide, open_slide

TILE_PX = 512
_QUALITY = 85
_MOST_OPEN = 2  # slides; each handle of one may hold 32 MiB of decoded tiles
_MOST_READS = 3  # at once; as many handles are opened
_KEPT_BYTES = 64 << 20


class ByteCache:
    """The answers used last, by their key, up to a number of bytes."""

    def __init__(self, most_bytes: int = _KEPT_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._answers: OrderedDict[object, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], bytes]) -> bytes:
        """The answer of a key, made where it is not held."""
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        answer = make()
        with self._lock:
            self._held += len(answer) - len(self._answers.pop(key, b""))
            self._answers[key] = answer
            while self._held > self._most:
                self._held -= len(self._answers.popitem(last=False)[1])
        return answer


@dataclass
class _Open:
    """An open slide and how many readers use it."""

    slide: Slide
    users: int = 0


class OpenSlides:
    """The slides looked at last, kept open."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Path, int | None], _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._reads = threading.Semaphore(_MOST_READS)

    @contextmanager
    def slide(self, path: Path, scene: int | None = None) -> Iterator[Slide]:
        """A slide for one read; waits while as many others are read as may be.

        µm/px play no part here: pixels are read at whole multiples of level 0, so each slide is opened at 1 µm/px.

        Raises:
            SlideReadError: it cannot be opened.
        """
        with self._reads:
            with self._lock:
                key = (path, scene)
                one = self._open.pop(key, None) or _Open(open_slide(path, mpp_override=1.0, scene=scene))
                self._open[key] = one
                one.users += 1
                self._close_unused()
            try:
                yield one.slide
            finally:
                with self._lock:
                    one.users -= 1
                    self._close_unused()

    def close(self) -> None:
        """Close all that nobody reads from."""
        with self._lock:
            self._close_unused(most=0)

    def _close_unused(self, most: int = _MOST_OPEN) -> None:
        for key in list(self._open):
            if len(self._open) <= most:
                return
            if not self._open[key].users:
                self._open.pop(key).slide.close()


def top_zoom(width_level0: int, height_level0: int) -> int:
    """The zoom at which one tile shows the whole slide; zoom 0 is level 0, each further one half as fine."""
    return max(0, math.ceil(math.log2(max(width_level0, height_level0, 1) / TILE_PX)))


def tile_jpeg(slide: Slide, zoom: int, column: int, row: int) -> bytes:
    """One tile; beyond the slide's edge it is white.

    Args:
        slide: opened at 1 µm/px.
        zoom: a px of the tile is 2^zoom level-0 px.
        column: of the tile, from the left edge.
        row: of the tile, from the top edge.

    Raises:
        SlideReadError: there is no such tile, or it cannot be decoded.
    """
    info = slide.info
    known = 0 <= zoom <= top_zoom(info.width_level0, info.height_level0)
    side = TILE_PX << zoom if known else 1
    if not (known and 0 <= column * side < info.width_level0 and 0 <= row * side < info.height_level0):
        raise SlideReadError(f"{info.path.name}: no tile {zoom}/{column}/{row}", reason="not_found")
    return _jpeg(slide.read_region(column * side, row * side, TILE_PX, TILE_PX, mpp=float(1 << zoom)))


def crop_jpeg(slide: Slide, xy_level0: tuple[float, float], side_level0: float, side_px: int) -> bytes:
    """A square around a point.

    Args:
        slide: opened at 1 µm/px.
        xy_level0: its middle, level-0 px.
        side_level0: its side, level-0 px.
        side_px: of the picture.

    Raises:
        SlideReadError: it cannot be decoded.
    """
    left, top = (value - side_level0 / 2 for value in xy_level0)
    return _jpeg(slide.read_region(left, top, side_px, side_px, mpp=side_level0 / side_px))


def thumbnail_jpeg(slide: Slide, side_px: int) -> bytes:
    """The whole slide.

    Raises:
        SlideReadError: it cannot be decoded.
    """
    return _jpeg(slide.thumbnail(side_px))


def _jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
