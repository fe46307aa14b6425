"""Whether pixels that were decoded as RGB are YCbCr in truth, told by what stained tissue on glass cannot look like."""

from collections.abc import Sequence

import numpy as np

from muse_core.images.pixels import Pixels

_NEUTRAL = 128  # of Cb and Cr: what has no colour
_NEAR_NEUTRAL, _NEAR_ON_AVERAGE = 16, 40  # grey levels; of a pixel of glass, and of all pixels in the mean
_WHITE, _WHITE_PART = 190, 0.002  # in all channels: glass as RGB, and as YCbCr a bright magenta that no stain has
_BRIGHT = 200  # of Y: glass
_GLASS_PART = 0.2  # of the pixels: at most 0.02 of any of 808 patches of tissue are of that colour as RGB
_LEAST_SPREAD = 15.0  # standard deviation of Y: flatter pictures tell nothing
_HALF = 0.5  # chroma of tissue spreads by a quarter of what its brightness does; green of RGB by as much as red


def is_ycbcr(samples: Sequence[Pixels]) -> bool:
    """Whether some places of a slide, taken for RGB, are YCbCr: glass is salmon then, and tissue has one hue.

    Of 808 patches of H&E at 256 px none is taken for YCbCr; as YCbCr 60 % are noticed by one patch without glass.

    Args:
        samples: (H, W, 3) uint8 each, of one slide.
    """
    if not samples:
        return False
    pixels = np.concatenate([one.reshape(-1, 3) for one in samples]).astype(np.int16)
    if (pixels.min(axis=1) > _WHITE).mean() > _WHITE_PART:
        return False
    chroma = np.abs(pixels[:, 1:] - _NEUTRAL)
    salmon = (pixels[:, 0] > _BRIGHT) & (chroma.max(axis=1) < _NEAR_NEUTRAL)
    if salmon.mean() > _GLASS_PART:
        return True
    spread, mean = pixels.std(axis=0), pixels.mean(axis=0)
    is_near = bool((np.abs(mean[1:] - _NEUTRAL) < _NEAR_ON_AVERAGE).all())
    return is_near and bool(spread[0] > _LEAST_SPREAD and (spread[1:] < _HALF * spread[0]).all())
