"""A view's pixels out of a ROI: scaled, mirrored and turned in one resampling, at fractions of a pixel."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.pretrain.views.placement import ViewPlace
from muse_core.roi_dataset.image import RoiImage

_KERNEL_REACH_PX = 2  # of cubic interpolation, beyond the square

# Smoothing before a view is read at more than one ROI px a px: sigma = 0.35 sqrt(scale^2 - 1) ROI px. Of 0.3, 0.35, 0.4
# and 2 x 2 supersampling it is closest, or nearly, to Pillow's antialiased bicubic at all of 1.5, 1.75 and 2, on tissue
# as on noise: plain bilinear errs twice as much at 1.75.
_SMOOTHING = 0.35
_SMOOTH_FROM = 1.2  # scale below which smoothing changes nothing
_SHORT_SIGMA = 0.65  # up to it 3 taps hold 99 % of the weight; a scale of 2 has 0.61


def cut_view(image: RoiImage, place: ViewPlace) -> NDArray[np.uint8]:
    """The pixels of one view; only the tiles under its square are decoded, and those that were, are not again.

    Args:
        image: the ROI.
        place: a square within it.

    Returns:
        (side, side, 3) uint8 RGB.

    Raises:
        DatasetError: a tile does not decode.
    """
    scale = place.side_roi / place.side_px
    sigma = _SMOOTHING * math.sqrt(scale**2 - 1) if scale > _SMOOTH_FROM else 0.0
    taps_px = 0 if sigma == 0 else 1 if sigma < _SHORT_SIGMA else math.ceil(3 * sigma)  # on each side
    left, right = _span(place.x_roi, place.side_roi, taps_px + _KERNEL_REACH_PX, image.size[0])
    top, bottom = _span(place.y_roi, place.side_roi, taps_px + _KERNEL_REACH_PX, image.size[1])
    region = image.read(left, top, right - left, bottom - top)
    if taps_px:
        region = np.asarray(cv2.GaussianBlur(region, (2 * taps_px + 1,) * 2, sigma), np.uint8)
    matrix = place.to_roi
    # OpenCV puts the centre of the first pixel at 0, and the region starts at (left, top).
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5 - (left, top)
    view = cv2.warpAffine(
        region,
        matrix,
        (place.side_px, place.side_px),
        flags=(cv2.INTER_LINEAR if scale > 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(view, np.uint8)


def _span(start_roi: float, side_roi: float, reach_px: int, length: int) -> tuple[int, int]:
    """First and last-plus-one pixel that a square's resampling may look at, within the image."""
    return max(0, math.floor(start_roi) - reach_px), min(length, math.ceil(start_roi + side_roi) + reach_px)
