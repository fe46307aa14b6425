"""Optical density and stain separation: what turns RGB into amounts of haematoxylin and of the second stain.

Light through stained tissue falls off exponentially with the amount of stain (Beer and Lambert), so amounts add up in
optical density, not in RGB. Each stain has a direction in that 3-d space; two stains span a plane.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Source: Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, 2001 (the values of
# ImageJ's Colour Deconvolution and of scikit-image's rgb_from_hed).
RUIFROK_HAEMATOXYLIN = (0.650, 0.704, 0.286)
RUIFROK_EOSIN = (0.072, 0.990, 0.105)
RUIFROK_DAB = (0.268, 0.570, 0.776)

WHITE = (255.0, 255.0, 255.0)

# What a detector adapts to. Nuclei are resolved, so that their colour is not mixed with their surroundings'.
SAMPLE_MPP = 0.5
_SAMPLE_PIXELS = 100_000  # F1 on BRCA-M2C validation is that of all pixels (0.829), the estimate takes half as long

_MIN_TISSUE_OD = 0.15  # Source: Macenko et al., ISBI 2009, beta: below it a pixel is glass and its direction is noise
_ANGLE_PERCENTILE = 1.0  # Source: Macenko et al., alpha: robust ends of the fan of directions
_MIN_PIXELS = 200  # fewer stained pixels cannot place two percentiles
_MAX_PIXELS = 200_000  # enough for stable percentiles, milliseconds to fit
_MIN_STAIN_ANGLE_DEG = 10.0  # closer than this the two stains are one, and unmixing amplifies noise without bound
_MAX_HAEMATOXYLIN_ANGLE_DEG = 25.0  # real slides stay within; beyond, the fan's end is ink, dirt or another stain
_MAX_COUNTERSTAIN_ANGLE_DEG = 35.0  # eosin varies more than haematoxylin (phloxine, fading, white balance)


@dataclass(frozen=True)
class StainMatrix:
    """Two stain directions in optical density, and the colour of the empty glass.

    Attributes:
        haematoxylin: unit vector (R, G, B) of absorption, the nuclear stain.
        counterstain: unit vector of the second stain, eosin or DAB.
        counterstain_name: "eosin" or "dab".
        background: RGB 0..255 of unstained glass.
        estimated: False where the published vectors stand in for an estimate that was not plausible.
    """

    haematoxylin: tuple[float, float, float]
    counterstain: tuple[float, float, float]
    counterstain_name: str = "eosin"
    background: tuple[float, float, float] = WHITE
    estimated: bool = False

    @property
    def unmixing(self) -> NDArray[np.float32]:
        """(3, 2) matrix that takes optical density to the least-squares amounts of (haematoxylin, counterstain)."""
        return np.linalg.pinv(np.array([self.haematoxylin, self.counterstain])).astype(np.float32)


def published_stains(counterstain: str = "eosin", *, background: tuple[float, float, float] = WHITE) -> StainMatrix:
    """The stain vectors of the literature, for slides that are too pale or too odd to estimate them from.

    Args:
        counterstain: "eosin" (H&E) or "dab" (immunohistochemistry).
        background: RGB 0..255 of unstained glass.
    """
    second = {"eosin": RUIFROK_EOSIN, "dab": RUIFROK_DAB}[counterstain]
    return StainMatrix(_unit(RUIFROK_HAEMATOXYLIN), _unit(second), counterstain, background)


def optical_density(rgb: NDArray[np.uint8], *, background: tuple[float, float, float] = WHITE) -> NDArray[np.float32]:
    """Absorbance -log10(I / I0) of each channel.

    Args:
        rgb: uint8 (..., 3).
        background: I0, the RGB 0..255 of unstained glass; 0 is read as 1 on both sides, so that the result is finite.

    Returns:
        float32, the shape of `rgb`; 0 for glass, about 0.1 to 1.5 for stained tissue, negative where above the glass.
    """
    pixels = np.ascontiguousarray(rgb).reshape(-1, 1, 3)
    return np.asarray(cv2.LUT(pixels, _density_table(background)), np.float32).reshape(rgb.shape)


def estimate_stains(rgb: NDArray[np.uint8], *, background: tuple[float, float, float] = WHITE) -> StainMatrix:
    """Find the slide's own two stain vectors, or fall back to the published ones where the estimate is not plausible.

    The stained pixels' optical densities lie in the plane of the two stains; the robust ends of their fan of directions
    in that plane are the stains. The end that takes more from red light is haematoxylin; the other is eosin where it
    takes most from green light and DAB where it takes most from blue.

    Args:
        rgb: uint8 (..., 3), pixels of tissue; glass among them is ignored. Any number; a fixed subset of many is used.
        background: RGB 0..255 of unstained glass.

    Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009.
    """
    pixels = rgb.reshape(-1, 3)
    if len(pixels) < _MIN_PIXELS:
        return published_stains(background=background)
    density = optical_density(pixels[:: max(1, len(pixels) // _MAX_PIXELS)], background=background)
    density = density[(density > _MIN_TISSUE_OD).any(axis=1) & (density > -0.05).all(axis=1)]
    if len(density) < _MIN_PIXELS:
        return published_stains(background=background)
    first, second = _fan_ends(density)
    if second[0] > first[0]:  # neither eosin nor DAB takes as much from red light as haematoxylin does
        first, second = second, first
    return _plausible(first, second, density, background)


def stained_pixels(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
    """What a detector adapts to: pixels (N, 3) of an image (H, W, 3) at about 0.5 µm/px that are not glass."""
    binning = max(1, round(SAMPLE_MPP / mpp))
    height, width = (max(1, side // binning) for side in rgb.shape[:2])
    pixels = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8).reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // _SAMPLE_PIXELS)]
    return pixels[(optical_density(pixels) > _MIN_TISSUE_OD).any(axis=1)]


def separate(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.float32]:
    """Amounts of the two stains in each pixel.

    Args:
        rgb: uint8 (H, W, 3).
        stains: the slide's stain vectors.

    Returns:
        float32 (H, W, 2): haematoxylin, counterstain; optical density along the stain's direction, >= 0.
    """
    density = optical_density(rgb, background=stains.background).reshape(-1, 1, 3)
    amounts = np.asarray(cv2.transform(density, stains.unmixing.T), np.float32)  # (N, 1, 3) -> (N, 1, 2)
    np.maximum(amounts, 0.0, out=amounts)
    return amounts.reshape(*rgb.shape[:-1], 2)


def _density_table(background: tuple[float, float, float]) -> NDArray[np.float32]:
    """(1, 256, 3) optical density of each value of each channel; 256 logarithms a channel, not one a pixel."""
    values = np.maximum(np.arange(256, dtype=np.float64), 1.0)
    glass = np.maximum(np.asarray(background, np.float64), 1.0)
    return (np.log10(glass) - np.log10(values)[:, None]).astype(np.float32)[None]


def _fan_ends(density: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two unit directions that bound the optical densities (N, 3) in their principal plane."""
    # About the origin, not the mean: no stain is no density, so the plane goes through the origin.
    _, axes = np.linalg.eigh((density.T @ density).astype(np.float64))
    plane = axes[:, [2, 1]]  # (3, 2), largest variance first
    plane[:, 0] *= np.sign(plane[:, 0].sum()) or 1.0  # along absorption, so that angles don't wrap
    along, across = (density @ plane).T
    low, high = np.percentile(np.arctan2(across, along), [_ANGLE_PERCENTILE, 100 - _ANGLE_PERCENTILE])
    ends = [plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)]
    return ends[0], ends[1]


def _plausible(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    density: NDArray[np.float32],
    background: tuple[float, float, float],
) -> StainMatrix:
    """The estimate as a StainMatrix, or the published vectors where it contradicts what stains look like."""
    # Eosin takes most from green, DAB from blue; the angle to the published vectors confuses a warm eosin with DAB.
    name = "eosin" if second[1] >= second[2] else "dab"
    published = published_stains(name, background=background)
    implausible = (
        min(first.min(), second.min()) < -0.1
        or _angle_deg(first, second) < _MIN_STAIN_ANGLE_DEG
        or _angle_deg(first, published.haematoxylin) > _MAX_HAEMATOXYLIN_ANGLE_DEG
        or _angle_deg(second, published.counterstain) > _MAX_COUNTERSTAIN_ANGLE_DEG
    )
    if implausible:
        return published
    return StainMatrix(_unit(first), _unit(second), name, background, estimated=True)


def _unit(vector: tuple[float, float, float] | NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = np.maximum(np.asarray(vector, np.float64), 0.0)
    length = float(np.sqrt(x * x + y * y + z * z))
    return float(x) / length, float(y) / length, float(z) / length


def _angle_deg(
    first: tuple[float, ...] | NDArray[np.float64], second: tuple[float, ...] | NDArray[np.float64]
) -> float:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
