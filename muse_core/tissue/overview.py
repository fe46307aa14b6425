"""The whole slide as one small image, read once for all that looks at it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.geometry import Frame, frame_at
from muse_core.slide import Slide


@dataclass(frozen=True)
class Overview:
    """A whole slide at one µm/px.

    Attributes:
        rgb: uint8 (H, W, 3).
        mpp: its µm/px, both axes.
        frame: where its pixels lie on level 0.
    """

    rgb: NDArray[np.uint8]
    mpp: float
    frame: Frame

    def reduced(self, mpp: float) -> "Overview":
        """Means over square blocks of as many pixels as come nearest to `mpp` µm/px; itself where one does."""
        factor = max(1, round(mpp / self.mpp))
        if factor == 1:
            return self
        height, width = self.rgb.shape[:2]
        rows, columns = -(-height // factor), -(-width // factor)
        below, right = rows * factor - height, columns * factor - width
        rgb = self.rgb
        if below or right:  # what the last blocks lack lies beyond the slide
            rgb = np.asarray(cv2.copyMakeBorder(rgb, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        rgb = np.asarray(cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
        frame = self.frame
        scales = (frame.scale_x * factor, frame.scale_y * factor)
        return Overview(rgb, self.mpp * factor, Frame(frame.x_level0, frame.y_level0, *scales))


def read_overview(slide: Slide, mpp: float, *, max_px: int) -> Overview:
    """Read a slide's overview.

    Args:
        slide: an open slide of known mpp.
        mpp: µm/px wanted; coarser where the slide is, or where its longest side would be more than `max_px`.
        max_px: bounds the memory.

    Raises:
        SlideReadError: it cannot be read.
    """
    info = slide.info
    longest_um = max(info.width_level0 * info.mpp.x, info.height_level0 * info.mpp.y)
    actual = max(mpp, info.mpp.x, info.mpp.y, longest_um / max_px)
    return Overview(slide.read_overview(actual), actual, frame_at(0.0, 0.0, actual, (info.mpp.x, info.mpp.y)))
