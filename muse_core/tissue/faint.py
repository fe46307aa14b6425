"""Tissue so pale that its mean colour is nearly that of glass: faintly stained, or varied by its nuclei."""

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.images.stain import optical_density
from muse_core.tissue.morphology import Mask, closed, eroded, opened
from muse_core.tissue.settings import TissueSettings

_MAX_TEXTURE_OD = 0.02  # varied glass raises the threshold, but never beyond this
_MIN_GLASS_SHARE = 0.005  # of the slide
_MAX_SAMPLE = 1_000_000  # pixels; enough for a percentile
STRIP_ROWS = 256  # floats of so many rows at once, never of the whole overview


def faint_mask(
    overview: NDArray[np.uint8],
    faintly_stained: Mask,
    glass: Mask,
    *,
    background: tuple[float, float, float],
    mpp: float,
    settings: TissueSettings,
) -> Mask:
    """Broad regions that may be pale tissue; they count where well-stained tissue is part of them.

    Args:
        overview: uint8 (H, W, 3) RGB of a whole slide.
        faintly_stained: bool (H, W), pixels of little stain.
        glass: bool (H, W), pixels of sure glass, by which noise is judged.
        background: RGB 0..255 of the glass.
        mpp: µm/px of the overview.
        settings: least texture, its window, least width.
    """
    evidence = faintly_stained | _varied(overview, glass, background=background, mpp=mpp, settings=settings)
    joined = closed(evidence, round(settings.closing_um / mpp))
    return opened(joined, max(1, round(settings.min_faint_width_um / 2 / mpp)))


def colour_texture(
    overview: NDArray[np.uint8], *, background: tuple[float, float, float], size_px: int
) -> NDArray[np.float16]:
    """Local standard deviation of colour, brightness left out, so that grey dirt, shade and glass edges have none.

    Args:
        overview: uint8 (H, W, 3) RGB.
        background: RGB 0..255 of the glass.
        size_px: side of the window, odd.

    Returns:
        float16 (H, W), optical density.
    """
    texture = np.empty(overview.shape[:2], np.float16)
    height, margin = len(overview), size_px // 2
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        first, last = max(top - margin, 0), min(bottom + margin, height)
        density = optical_density(overview[first:last], background=background)
        # Two axes across the grey diagonal: haematoxylin and DAB lie along the first, eosin along the second.
        axes = (density[..., 0] - density[..., 2], density[..., 1] - (density[..., 0] + density[..., 2]) / 2)
        variance = local_variance(axes[0], size_px) + local_variance(axes[1], size_px)
        texture[top:bottom] = np.sqrt(variance)[top - first : bottom - first]
    return texture


def _varied(
    overview: NDArray[np.uint8],
    glass: Mask,
    *,
    background: tuple[float, float, float],
    mpp: float,
    settings: TissueSettings,
) -> Mask:
    size_px = round(settings.texture_um / mpp) | 1
    # A pixel of many nuclei has no texture to see; without glass, noise cannot be told from it.
    if size_px < 3 or glass.mean() < _MIN_GLASS_SHARE:
        return np.zeros(glass.shape, bool)
    texture = colour_texture(overview, background=background, size_px=size_px)
    of_glass = texture[glass]
    sample = of_glass[:: max(1, len(of_glass) // _MAX_SAMPLE)]
    noise = 2.0 * float(np.percentile(sample, 95))
    varied = texture > np.float16(np.clip(noise, settings.min_texture_od, _MAX_TEXTURE_OD))
    # A window that reaches into tissue varies too: half a window of glass around it is taken back.
    return eroded(closed(varied, 1), size_px // 2)


def local_variance(values: NDArray[np.floating], size_px: int) -> NDArray[np.float32]:
    """Variance within a square window around each pixel."""
    mean = cv2.blur(values, (size_px, size_px))
    square = cv2.blur(values * values, (size_px, size_px))
    return np.asarray(np.maximum(square - mean * mean, 0.0), np.float32)
