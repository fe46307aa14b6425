"""One ROI of an open slide: its stored image, copied or encoded, and its nuclei."""

import math

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import SlideReadError
from muse_core.geometry import Box, frame_at
from muse_core.nuclei import Detector, detect_in_core, margin_um
from muse_core.roi_image import RoiImageSettings, copy_roi, encode_roi
from muse_core.rois import RoiBox
from muse_core.slide import Slide

SAME_MPP = 1e-6  # relative; more digits than any scanner writes


def build_roi(
    slide: Slide, box: RoiBox, detector: Detector | None, settings: RoiImageSettings
) -> tuple[bytes, NDArray[np.float32] | None]:
    """The image of a ROI as it is stored, and its nuclei.

    Args:
        slide: an open slide.
        box: the ROI.
        detector: adapted to the slide; None for no nuclei, and then nothing is decoded where tiles can be copied.
        settings: how the image is stored.

    Returns:
        A tiled JPEG TIFF, and nuclei float32 (N, 3) x, y (ROI px), score; None without a detector.

    Raises:
        SlideReadError: the region cannot be read.
    """
    copied = _copy_tiles(slide, box) if settings.copy_tiles else None
    if detector is None:
        return copied or _encode(_read(slide, box), box, settings), None
    margin = math.ceil(margin_um(detector) / box.mpp)
    rgb = _read_around(slide, box, margin)
    nuclei = detect_in_core(detector, rgb, box.mpp, core=Box(margin, margin, box.width_px, box.height_px))
    core = rgb[margin : margin + box.height_px, margin : margin + box.width_px]
    return copied or _encode(core, box, settings), nuclei


def _read(slide: Slide, box: RoiBox) -> NDArray[np.uint8]:
    return slide.read_region(box.x_level0, box.y_level0, box.width_px, box.height_px, mpp=box.mpp)


def _read_around(slide: Slide, box: RoiBox, margin_px: int) -> NDArray[np.uint8]:
    """A ROI's pixels with a margin, which is mirrored where a bad tile lies in it: a tile costs no ROI but its own."""
    frame = frame_at(box.x_level0, box.y_level0, box.mpp, (slide.info.mpp.x, slide.info.mpp.y))
    ((x_level0, y_level0),) = frame.to_level0(np.array([[-margin_px, -margin_px]]))
    width, height = box.width_px + 2 * margin_px, box.height_px + 2 * margin_px
    try:
        return slide.read_region(x_level0, y_level0, width, height, mpp=box.mpp)
    except SlideReadError:
        margins = ((margin_px, margin_px), (margin_px, margin_px), (0, 0))
        return np.pad(_read(slide, box), margins, mode="reflect")


def _encode(rgb: NDArray[np.uint8], box: RoiBox, settings: RoiImageSettings) -> bytes:
    return encode_roi(
        rgb, quality=settings.quality, subsampling=settings.subsampling, tile_px=settings.tile_px, mpp=box.mpp
    )


def _copy_tiles(slide: Slide, box: RoiBox) -> bytes | None:
    """The slide's own compressed tiles, where a level has the ROI's mpp and the ROI starts on its tile grid."""
    for number, level in enumerate(slide.info.levels):
        level_mpp = (slide.info.mpp.x * level.downsample_x, slide.info.mpp.y * level.downsample_y)
        if not np.allclose(level_mpp, box.mpp, rtol=SAME_MPP, atol=0):
            continue
        tiles = slide.jpeg_tiles(number)
        x, y = box.x_level0 / level.downsample_x, box.y_level0 / level.downsample_y
        if tiles is None or x % tiles.tile_width or y % tiles.tile_height:
            continue
        tile_x, tile_y = int(x // tiles.tile_width), int(y // tiles.tile_height)
        return copy_roi(tiles, tile_x, tile_y, box.width_px, box.height_px, mpp=box.mpp)
    return None
