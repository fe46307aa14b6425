"""One ROI of an open slide: its stored image, copied or encoded, and its nuclei."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.build.rois import RoiBox, level_mpp
from muse_core.detector.detect import Detector, detect_in_core, margin_um
from muse_core.errors import SlideReadError
from muse_core.geometry import Box, frame_at
from muse_core.roi_dataset.image import RoiImageSettings, copy_roi, encode_roi
from muse_core.slide import JpegTiles, Level, Slide

SAME_MPP = 1e-6  # relative; more digits than any scanner writes


@dataclass(frozen=True)
class CopyableTiles:
    """The compressed tiles of the level whose own pixels ROIs hold.

    Attributes:
        tiles: the tiles.
        level: their level.
        number: its number.
    """

    tiles: JpegTiles
    level: Level
    number: int

    def copy(self, box: RoiBox) -> bytes | None:
        """The ROI as the slide has it compressed; None where it has to be encoded from its pixels.

        That is where it does not hold this level's pixels or start on the tile grid, or `copy_roi` cannot copy its
        tiles.

        Raises:
            SlideReadError: a tile is broken.
        """
        if box.level != self.number:
            return None
        x, y = _corner_in_level(box, self.level)
        if x % self.tiles.tile_width or y % self.tiles.tile_height:
            return None
        tile_x, tile_y = x // self.tiles.tile_width, y // self.tiles.tile_height
        return copy_roi(self.tiles, tile_x, tile_y, box.width_px, box.height_px, mpp=box.mpp)


@contextmanager
def copyable_tiles(slide: Slide, mpp: float) -> Iterator[CopyableTiles | None]:
    """The tiles to copy ROIs of `mpp` µm/px from; None where no level has that mpp or its tiles are not JPEG."""
    for number, level in enumerate(slide.info.levels):
        if math.isclose(level_mpp(slide.info, level), mpp, rel_tol=SAME_MPP) and (tiles := slide.jpeg_tiles(number)):
            with closing(tiles):
                yield CopyableTiles(tiles, level, number)
            return
    yield None


def build_roi(
    slide: Slide, box: RoiBox, detector: Detector | None, tiles: CopyableTiles | None, settings: RoiImageSettings
) -> tuple[bytes, NDArray[np.float32] | None]:
    """The image of a ROI as it is stored, and its nuclei.

    Args:
        slide: an open slide.
        box: the ROI.
        detector: adapted to the slide; None for no nuclei, and then nothing is decoded where tiles can be copied.
        tiles: what `copyable_tiles` gave; None to encode.
        settings: how the image is stored.

    Returns:
        A tiled JPEG TIFF, and nuclei float32 (N, 3) x, y (ROI px), score; None without a detector.

    Raises:
        SlideReadError: the region cannot be read.
    """
    copied = tiles.copy(box) if tiles else None
    if detector is None:
        return copied or _encode(_read(slide, box), box, settings), None
    margin = math.ceil(margin_um(detector) / box.mpp)
    rgb = _read_around(slide, box, margin)
    nuclei = detect_in_core(detector, rgb, box.mpp, core=Box(margin, margin, box.width_px, box.height_px))
    core = rgb[margin : margin + box.height_px, margin : margin + box.width_px]
    return copied or _encode(core, box, settings), nuclei


def _read(slide: Slide, box: RoiBox, margin_px: int = 0) -> NDArray[np.uint8]:
    """A ROI's pixels and so many around them, on its own grid."""
    width, height = box.width_px + 2 * margin_px, box.height_px + 2 * margin_px
    on_host = slide.device == "cpu"  # else decoded and resampled on the GPU; detectors and the encoder take host arrays
    if box.level is not None:
        x, y = (value - margin_px for value in _corner_in_level(box, slide.info.levels[box.level]))
        if on_host:
            return slide.read_level(x, y, width, height, level=box.level)
        return slide.read_level_tensor(x, y, width, height, level=box.level).cpu().numpy()
    frame = frame_at(box.x_level0, box.y_level0, box.mpp, (slide.info.mpp.x, slide.info.mpp.y))
    ((x_level0, y_level0),) = frame.to_level0(np.array([[-margin_px, -margin_px]]))
    if on_host:
        return slide.read_region(x_level0, y_level0, width, height, mpp=box.mpp)
    return slide.read_region_tensor(x_level0, y_level0, width, height, mpp=box.mpp).cpu().numpy()


def _read_around(slide: Slide, box: RoiBox, margin_px: int) -> NDArray[np.uint8]:
    """A ROI's pixels with a margin, which is mirrored where a bad tile lies in it: a tile costs no ROI but its own."""
    try:
        return _read(slide, box, margin_px)
    except SlideReadError:
        margins = ((margin_px, margin_px), (margin_px, margin_px), (0, 0))
        return np.pad(_read(slide, box), margins, mode="reflect")


def _corner_in_level(box: RoiBox, level: Level) -> tuple[int, int]:
    """The corner of a ROI that holds the level's own pixels, px of the level."""
    return round(box.x_level0 / level.downsample_x), round(box.y_level0 / level.downsample_y)


def _encode(rgb: NDArray[np.uint8], box: RoiBox, settings: RoiImageSettings) -> bytes:
    return encode_roi(
        rgb, quality=settings.quality, subsampling=settings.subsampling, tile_px=settings.tile_px, mpp=box.mpp
    )
