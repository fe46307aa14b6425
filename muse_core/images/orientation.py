"""Which way up a stored picture is meant to be seen: the orientation tag that TIFF and EXIF share."""

import struct

import numpy as np
from PIL import Image

from muse_core.images.pixels import Pixels

# TIFF 6.0, Orientation: where row 0 and column 0 of what is stored belong. (swapped, columns reversed, rows reversed):
# swap the axes of what is stored first, then reverse.
STEPS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned",
    6: "turned by 90 degrees clockwise",
    7: "mirrored and turned",
    8: "turned by 90 degrees anticlockwise",
}

_ORIENTATION_TAG = 0x0112


def upright(stored: Pixels, orientation: int) -> Pixels:
    """A stored picture, or one rectangle of it, as it is meant to be seen.

    Args:
        stored: (H, W, 3) uint8.
        orientation: the tag's value, 1 to 8.

    Returns:
        (H, W, 3), or (W, H, 3) where the axes are swapped; contiguous.
    """
    swapped, columns_reversed, rows_reversed = STEPS[orientation]
    pixels = stored.swapaxes(0, 1) if swapped else stored
    rows = slice(None, None, -1) if rows_reversed else slice(None)
    columns = slice(None, None, -1) if columns_reversed else slice(None)
    return np.ascontiguousarray(pixels[rows, columns])


def exif_orientation(image: Image.Image) -> int:
    """The orientation in an image's EXIF, 1 to 8; 1 where there is none, or none that makes sense."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error):
        return 1  # damaged EXIF turns nothing; the pixels are judged by themselves
    return value if isinstance(value, int) and value in STEPS else 1
