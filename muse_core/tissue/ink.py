"""Pen and surgical ink: colours that no mixture of stains has, over areas as wide as a stroke."""

import numpy as np
from numpy.typing import NDArray

from muse_core.tissue.morphology import Mask, dilated, grown, opened
from muse_core.tissue.settings import TissueSettings

N_INKS = 5  # kinds of ink, one bit each in the flags of `ink_flags`


def ink_flags(density: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Which kinds of ink each pixel's colour may be, by bits.

    Args:
        density: float32 (H, W, 3) optical density of the smoothed overview, or of a strip of it.

    Returns:
        uint8 (H, W).
    """
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    total = red + green + blue
    # The directions of inks, as ratios that no mixture of haematoxylin, eosin and DAB has (see stain.py for theirs).
    blue_green = (green < 0.8 * red) & (red > 0.12)  # haematoxylin and DAB take at least 0.95 as much green as red
    scarlet = (red < 0.3 * green) & (blue > 0.72 * green) & (green > 0.35)  # eosin takes 0.1 to 0.6 as much blue
    yellow = (blue > 2.2 * green) & (blue > 0.2)  # DAB: 1.4 to 1.7
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    black = (spread < 0.2 * total) & (total > 1.5)
    # Haematoxylin's own direction, but denser than tissue is over so wide an area (0.5 at most in the slides measured).
    violet = (red > 0.9 * green) & (blue < 0.8 * green) & (red > 0.6)
    violet |= (red > 0.65 * green) & (blue < 0.8 * green) & (red > 0.75)  # the same over eosin
    flags = np.zeros(red.shape, np.uint8)
    for bit, kind in enumerate((blue_green, scarlet, yellow, black, violet)):
        flags |= kind.view(np.uint8) << bit
    return flags


def ink_mask(flags: NDArray[np.uint8], absorbing: Mask, mpp: float, settings: TissueSettings) -> Mask:
    """Which pixels carry ink.

    Args:
        flags: uint8 (H, W), see `ink_flags`.
        absorbing: bool (H, W), pixels that are darker than glass, where a stroke may fade out.
        mpp: µm/px.
        settings: the least width of a stroke.
    """
    radius = max(1, round(settings.min_ink_width_um / 2 / mpp))
    found = np.zeros(flags.shape, bool)
    for bit in range(N_INKS):
        colour = (flags & (1 << bit)).astype(bool)
        found |= grown(opened(colour, radius), colour)
    return dilated(found, radius) & absorbing if found.any() else found
