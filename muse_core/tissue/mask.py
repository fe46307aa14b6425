"""Overview pixels to a tissue mask: what is stained like tissue, and what only looks dark.

All tests are on optical density relative to the slide's own glass, where a stain is a direction whatever its amount:
haematoxylin, eosin and DAB all take more from green light than from the lesser of red and blue; neutral dirt, shade,
black borders and glass edges take equally from all three; inks point elsewhere.

Pale stroma, fat and weak counterstains have hardly any stain on average. What joins a well-stained region is tissue too
where it is faintly stained or where its colour varies as nuclei on near-glass make it vary (see faint.py). Dirt and
tinted glass away from tissue stay out.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.images.stain import optical_density
from muse_core.tissue.faint import STRIP_ROWS, faint_mask, local_variance
from muse_core.tissue.ink import ink_flags, ink_mask
from muse_core.tissue.morphology import Mask, closed, dilated, eroded, grown, opened, rounded
from muse_core.tissue.settings import TissueSettings
from muse_core.tissue.strands import with_strands

Image = NDArray[np.uint8]
Numbers = TypeVar("Numbers", NDArray[np.uint8], NDArray[np.float16])

_BLACK = 25  # brightest channel of scanner background and missing tiles, with room for JPEG ringing
_GLASS_MIN = 160  # glass is bright in its darkest channel, whatever the white balance,
_GLASS_MAX_SPREAD = 32  # nearly colourless,
_GLASS_MAX_STD = 2.5  # and flat over a few px of overview, which tissue hardly ever is
_FLAT_WINDOW_PX = 5
_MIN_GLASS_SHARE = 0.005  # of the slide; less is not enough to tell its colour
_EMPTY_OD = 0.01  # about 5 grey levels; the palest stroma measured takes 0.03
_ABSORBING_OD = 0.1  # of the three channels together
_MAX_SAMPLE = 1_000_000  # pixels; enough for any percentile
_RIM_PX = 2  # of overview: half a window
_USUAL_GLASS = 235.0  # the least taken for glass where a slide shows none


@dataclass(frozen=True)
class MaskResult:
    """A tissue mask and what was refused.

    Attributes:
        tissue: bool (H, W) in overview px.
        background: RGB 0..255 of the glass.
        refused: name to bool (H, W): "ink", "black" (borders, missing tiles), "neutral" (dirt, shade, glass edges).
    """

    tissue: Mask
    background: tuple[float, float, float]
    refused: dict[str, Mask] = field(default_factory=dict)


@dataclass(frozen=True)
class _Colours:
    """What the optical densities of a smoothed overview say of each pixel; all (H, W).

    Attributes:
        stain: float16, density of green beyond the lesser of red and blue.
        ink_flags: uint8, see `ink_flags`.
        absorbing: bool, darker than glass at all.
        dark: bool, darker than dirty glass.
    """

    stain: NDArray[np.float16]
    ink_flags: NDArray[np.uint8]
    absorbing: Mask
    dark: Mask


def tissue_mask(overview: Image, mpp: float, settings: TissueSettings) -> Mask:
    """Which pixels of an overview are tissue.

    Args:
        overview: uint8 (H, W, 3) RGB of a whole slide.
        mpp: its µm/px.
        settings: thresholds.

    Returns:
        bool (H, W).
    """
    return find_mask(overview, mpp, settings).tissue


def find_mask(overview: Image, mpp: float, settings: TissueSettings) -> MaskResult:
    """As `tissue_mask`, with the glass colour found and what was refused."""
    glass = glass_mask(overview)
    background = estimate_background(overview, glass)
    black = dilated(_brightest(overview) <= _BLACK, 1)
    colours = _colours(overview, background, mpp, settings)
    ink = ink_mask(colours.ink_flags, colours.absorbing, mpp, settings)
    threshold = stain_threshold(_some(colours.stain[glass]), settings)
    stained = (colours.stain > np.float16(threshold)) & ~ink & ~black
    sure = _clean(stained, mpp, settings)
    hint = colours.stain > np.float16(threshold / 2)
    faint = faint_mask(overview, hint, glass, background=background, mpp=mpp, settings=settings)
    tissue = sure | grown(sure, faint | sure, least_px=settings.min_area_um2 / 2 / mpp**2)
    tissue = _trimmed(tissue, _empty(overview, background))
    tissue = rounded(tissue, settings.rounding_um / mpp) & ~ink & ~black
    if ink.any():  # the fading rim of a stroke, which closing has joined
        tissue = opened(tissue, round(settings.opening_um / mpp))
    else:
        surely = stained & (colours.stain > np.float16(settings.max_stain_od))
        surely &= ~dilated(colours.ink_flags > 0, _RIM_PX)  # lines thinner than a stroke, and their rims
        tissue = with_strands(tissue, stained, surely, mpp, settings)
    neutral = colours.dark & ~stained & ~ink & ~black & ~tissue
    return MaskResult(tissue, background, {"ink": ink, "black": black, "neutral": neutral})


def looks_fluorescent(overview: Image) -> bool:
    """Whether the slide is dark with bright spots, not bright with dark tissue."""
    dark = _brightest(overview) < 60
    glass = _darkest(overview) >= _GLASS_MIN
    return bool(dark.mean() > 0.5 and glass.mean() < 0.02)


def glass_mask(overview: Image) -> Mask:
    """Empty glass: bright, flat and nearly colourless. Padding of exact 255 counts only where there is no other."""
    low, high = _darkest(overview), _brightest(overview)
    bright = (low >= _GLASS_MIN) & (high.astype(np.int16) - low <= _GLASS_MAX_SPREAD)
    flat = bright & _is_flat(overview[..., 1])
    padding: Mask = low == 255
    glass: Mask = flat & ~padding
    return glass if glass.mean() > _MIN_GLASS_SHARE else padding


def estimate_background(overview: Image, glass: Mask) -> tuple[float, float, float]:
    """RGB 0..255 of empty glass: the commonest colour there.

    A slide without glass gets its brightest colour, at least 235 in each channel.
    """
    if glass.mean() > _MIN_GLASS_SHARE:
        pixels = _some(overview[glass])
        green = pixels[:, 1]
        counts = np.convolve(np.bincount(green, minlength=256), np.ones(5), "same")
        near = np.abs(green.astype(np.int16) - int(counts.argmax())) <= 3
        colour = np.median(pixels[near], axis=0)
    else:
        colour = np.maximum(np.percentile(overview[::2, ::2], 99.5, axis=(0, 1)), _USUAL_GLASS)
    red, green_level, blue = colour.tolist()
    return red, green_level, blue


def stain_threshold(glass_stain: NDArray[np.float16], settings: TissueSettings) -> float:
    """The least stain that is not noise of this slide's glass: twice its 99th percentile, within the settings' bounds.

    Not Otsu's threshold: it lies half way to the dark parts, loses pale stroma, and splits a slide that is all tissue.
    """
    noise = 2.0 * float(np.percentile(glass_stain, 99)) if glass_stain.size else 0.0
    return float(np.clip(noise, settings.min_stain_od, settings.max_stain_od))


def _colours(overview: Image, background: tuple[float, float, float], mpp: float, settings: TissueSettings) -> _Colours:
    """Densities of one strip after the other, so that floats of the whole overview never are in memory."""
    smooth = cv2.GaussianBlur(overview, (0, 0), max(settings.smoothing_um / mpp, 0.5))
    shape = overview.shape[:2]
    found = _Colours(
        np.empty(shape, np.float16), np.empty(shape, np.uint8), np.empty(shape, bool), np.empty(shape, bool)
    )
    for top in range(0, shape[0], STRIP_ROWS):
        rows = slice(top, top + STRIP_ROWS)
        density = optical_density(smooth[rows], background=background)
        total = density[..., 0] + density[..., 1] + density[..., 2]
        found.stain[rows] = density[..., 1] - np.minimum(density[..., 0], density[..., 2])
        found.ink_flags[rows] = ink_flags(density)
        found.absorbing[rows] = total > _ABSORBING_OD
        found.dark[rows] = total / 3 > settings.max_stain_od
    return found


def _clean(stained: Mask, mpp: float, settings: TissueSettings) -> Mask:
    """Gaps closed, then thin things and specks dropped."""
    return opened(closed(stained, round(settings.closing_um / mpp)), round(settings.opening_um / mpp))


def _trimmed(tissue: Mask, empty: Mask) -> Mask:
    """Without the glass just outside the tissue, into which averaging over windows has carried stain."""
    for _ in range(_RIM_PX):
        tissue = tissue & (eroded(tissue, 1) | ~empty)
    return tissue


def _empty(overview: Image, background: tuple[float, float, float]) -> Mask:
    """Pixels as bright as glass in every channel."""
    least = [level * 10**-_EMPTY_OD for level in background]
    return np.asarray(cv2.inRange(overview, np.array([*least]), np.array([255.0] * 3)), bool)


def _brightest(image: Image) -> NDArray[np.uint8]:
    """The largest of the three channels; three times quicker than a maximum along the last axis."""
    largest: NDArray[np.uint8] = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
    return largest


def _darkest(image: Image) -> NDArray[np.uint8]:
    """The smallest of the three channels."""
    smallest: NDArray[np.uint8] = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
    return smallest


def _is_flat(channel: NDArray[np.uint8]) -> Mask:
    """Where the local standard deviation is that of glass; strip by strip."""
    flat = np.empty(channel.shape, bool)
    margin = _FLAT_WINDOW_PX // 2
    for top in range(0, len(channel), STRIP_ROWS):
        first = max(top - margin, 0)
        values = channel[first : top + STRIP_ROWS + margin].astype(np.float32)
        variance = local_variance(values, _FLAT_WINDOW_PX)
        flat[top : top + STRIP_ROWS] = (variance < _GLASS_MAX_STD**2)[top - first :][:STRIP_ROWS]
    return flat


def _some(values: Numbers) -> Numbers:
    """An even sample of many values."""
    return values[:: max(1, len(values) // _MAX_SAMPLE)]
