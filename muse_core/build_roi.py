"""One ROI of an open slide: its stored image, copied or encoded, and its nuclei."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.geometry import Box, frame_at
from muse_core.nuclei import Detector, detect_in_core, margin_um
from muse_core.roi_image import RoiImageSettings, copy_roi, encode_roi
from muse_core.rois import RoiBox
from muse_core.slide import JpegTiles, Level, Slide

SAME_MPP = 1e-6  # relative; more digits than any scanner writes


@dataclass(frozen=True)
class CopyableTiles:
    """The compressed tiles of the level whose µm/px is the ROIs' own."""

    tiles: JpegTiles
    level: Level

    def copy(self, box: RoiBox) -> bytes | None:
        """The ROI as the slide has it compressed; None where it has to be encoded from its pixels.

        That is where it does not start on the tile grid, or `copy_roi` cannot copy its tiles.

        Raises:
            SlideReadError: a tile is broken.
        """
        x, y = box.x_level0 / self.level.downsample_x, box.y_level0 / self.level.downsample_y
        if x % self.tiles.tile_width or y % self.tiles.tile_height:
            return None
        tile_x, tile_y = int(x // self.tiles.tile_width), int(y // self.tiles.tile_height)
        return copy_roi(self.tiles, tile_x, tile_y, box.width_px, box.height_px, mpp=box.mpp)


@contextmanager
def copyable_tiles(slide: Slide, mpp: float) -> Iterator[CopyableTiles | None]:
    """The tiles to copy ROIs of `mpp` µm/px from; None where no level has that mpp or its tiles are not JPEG."""
    for number, level in enumerate(slide.info.levels):
        level_mpp = (slide.info.mpp.x * level.downsample_x, slide.info.mpp.y * level.downsample_y)
        if np.allclose(level_mpp, mpp, rtol=SAME_MPP, atol=0) and (tiles := slide.jpeg_tiles(number)):
            with closing(tiles):
                yield CopyableTiles(tiles, level)
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


def _read(slide: Slide, box: RoiBox) -> NDArray[np.uint8]:
    return _pixels(slide, box.x_level0, box.y_level0, box.width_px, box.height_px, mpp=box.mpp)


def _read_around(slide: Slide, box: RoiBox, margin_px: int) -> NDArray[np.uint8]:
    """A ROI's pixels with a margin, which is mirrored where a bad tile lies in it: a tile costs no ROI but its own."""
    frame = frame_at(box.x_level0, box.y_level0, box.mpp, (slide.info.mpp.x, slide.info.mpp.y))
    ((x_level0, y_level0),) = frame.to_level0(np.array([[-margin_px, -margin_px]]))
    width, height = box.width_px + 2 * margin_px, box.height_px + 2 * margin_px
    try:
        return _pixels(slide, x_level0, y_level0, width, height, mpp=box.mpp)
    except SlideReadError:
        margins = ((margin_px, margin_px), (margin_px, margin_px), (0, 0))
        return np.pad(_read(slide, box), margins, mode="reflect")


def _pixels(
    slide: Slide, x_level0: float, y_level0: float, width_px: int, height_px: int, *, mpp: float
) -> NDArray[np.uint8]:
    if slide.device == "cpu":
        return slide.read_region(x_level0, y_level0, width_px, height_px, mpp=mpp)
    # Decoded and resampled on the GPU; detectors and the encoder take host arrays.
    return slide.read_region_tensor(x_level0, y_level0, width_px, height_px, mpp=mpp).cpu().numpy()


def _encode(rgb: NDArray[np.uint8], box: RoiBox, settings: RoiImageSettings) -> bytes:
    return encode_roi(
        rgb, quality=settings.quality, subsampling=settings.subsampling, tile_px=settings.tile_px, mpp=box.mpp
    )
