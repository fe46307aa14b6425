"""Pixels as 8-bit RGB over white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
WHITE = 255  # glass: what lies outside the image, and what a scanner left out


def more_than_8_bits(image: Image.Image) -> bool:
    """Whether an image that Pillow opened has more a channel, of which it would drop the low ones of RGB silently."""
    return ";16" in str(getattr(image, "tile", "")) or image.mode.startswith(("I", "F"))


def to_rgb(pixels: NDArray[np.generic]) -> Pixels:
    """Grey, RGB or RGBA uint8 of shape (H, W) or (H, W, C) to RGB; what is transparent becomes white.

    Raises:
        ValueError: another number of channels or another sample type.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"samples are {pixels.dtype}, 8-bit RGB is needed")
    array = np.asarray(pixels, np.uint8)
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    channels = array.shape[2]
    if channels == 3:
        return array
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 4:
        return _over_white(array)
    raise ValueError(f"{channels} channels a pixel, RGB is needed")


def ycbcr_to_rgb(samples: NDArray[np.uint8]) -> Pixels:
    """YCbCr of the full range, (H, W, 3) uint8, as RGB.

    Source: TIFF 6.0, section 21, with the default coefficients (ITU-R BT.601).
    """
    y, cb, cr = (samples[:, :, channel].astype(np.float32) for channel in range(3))
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    return np.clip(np.stack([red, green, blue], axis=2) + 0.5, 0, 255).astype(np.uint8)


def _over_white(rgba: NDArray[np.uint8]) -> Pixels:
    alpha = rgba[:, :, 3:].astype(np.uint16)
    mixed = (rgba[:, :, :3] * alpha + WHITE * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
