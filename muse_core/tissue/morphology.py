"""Closing, opening and growing of masks by discs of physical radius."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_STRIP_ROWS = 256


def disk(radius_px: int) -> NDArray[np.uint8]:
    """A disc as OpenCV's morphology takes it, (2 * radius_px + 1) square."""
    side = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def dilated(mask: Mask, radius_px: int) -> Mask:
    """All within a radius of the mask."""
    return np.asarray(cv2.dilate(mask.view(np.uint8), disk(radius_px)), bool)


def eroded(mask: Mask, radius_px: int) -> Mask:
    """The mask without its rim; the slide's own edge is no rim."""
    return np.asarray(cv2.erode(mask.view(np.uint8), disk(radius_px)), bool)


def closed(mask: Mask, radius_px: int) -> Mask:
    """Gaps narrower than twice the radius filled."""
    # A replicated border, so that closing doesn't eat tissue that runs off the slide's edge.
    margin = radius_px
    image = cv2.copyMakeBorder(mask.view(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    image = cv2.morphologyEx(image, cv2.MORPH_CLOSE, disk(radius_px))
    height, width = mask.shape
    return np.asarray(image[radius_px : radius_px + height, radius_px : radius_px + width], bool)


def opened(mask: Mask, radius_px: int) -> Mask:
    """Parts narrower than twice the radius dropped."""
    return np.asarray(cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, disk(radius_px)), bool)


def grown(seed: Mask, into: Mask, *, least_px: float = 1) -> Mask:
    """The connected parts of `into` that hold so many seed pixels."""
    if not seed.any():
        return seed
    count, labels = cv2.connectedComponents(into.view(np.uint8), connectivity=8)
    counts = np.zeros(count, np.int64)
    for rows in range(0, len(labels), _STRIP_ROWS):  # a bincount of all would take eight bytes a pixel
        strip = slice(rows, rows + _STRIP_ROWS)
        counts += np.bincount(labels[strip][seed[strip]], minlength=count)
    keep = counts >= least_px
    keep[0] = False
    return np.asarray(keep[labels])


def rounded(mask: Mask, sigma_px: float) -> Mask:
    """The mask with notches and spikes of about sigma smoothed away; straight edges stay where they are."""
    share = cv2.GaussianBlur(mask.view(np.uint8) * np.uint8(200), (0, 0), max(sigma_px, 0.3))
    return np.asarray(share > 100)
