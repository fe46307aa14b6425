"""Nucleus detectors: what one is, where it comes from, and how it is run on images of any size without seams.

A detector is a callable: RGB at a known mpp to nuclei, a float32 array (N, 3) of x, y, score. x and y are in px of the
image it was given (continuous, the first pixel's centre at 0.5), score is 0..1. It may also have

    for_slide(tissue_rgb)   returns a detector adapted to one slide's stain, from (N, 3) uint8 pixels of its tissue
    margin_um               the surroundings that it needs for a point to come out the same in a crop; 16 if it has none
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import ConfigError, DatasetError, MppError, figure
from muse_core.geometry import Box, inside

DEFAULT_MARGIN_UM = 16.0

# Imported only when asked for: a learned one needs torch, which this module must not.
_NAMED = {
    "classical": "muse_core.detector.classical:ClassicalDetector",
    "learned": "muse_core.detector.learned:LearnedDetector",
    "none": "muse_core.detector.detect:detect_nothing",
}
SHIPPED_DETECTORS = frozenset(_NAMED)

# Tiles start at multiples of this, so that a detector that works on a coarser grid (networks: 16 px, 32 where they see
# the image at half its resolution; binned images: 2, 3, 4 px) meets the same grid in every tile.
_TILE_GRID_PX = 96


class Detector(Protocol):
    """RGB uint8 (H, W, 3) at `mpp` µm/px to nuclei, float32 (N, 3)."""

    def __call__(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Find nuclei."""
        ...


@runtime_checkable
class AdaptableDetector(Protocol):
    """A detector that can be fitted to one slide."""

    def for_slide(self, tissue_rgb: NDArray[np.uint8]) -> Detector:
        """The detector for the slide whose tissue has these pixels, uint8 (N, 3)."""
        ...


def detect_nothing(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
    """The detector called "none": no nuclei, for runs that only want images."""
    return np.empty((0, 3), np.float32)


def load_detector(name: str) -> Detector:
    """The detector of a name.

    Args:
        name: "classical", "none", or the dotted name of a callable, "package.module:detector" or
            "package.module.detector"; a class is called without arguments first.

    Raises:
        ConfigError: it cannot be imported, or what is there is not callable.
    """
    target = _NAMED.get(name, name)
    found = _resolve(target, name)
    detector = found() if isinstance(found, type) else found
    if not callable(detector):
        raise ConfigError(
            f"detector {name!r}: {type(detector).__name__} is not callable; a function of (rgb, mpp) is needed"
        )
    return cast(Detector, detector)


def adapted(detector: Detector, tissue_rgb: NDArray[np.uint8]) -> Detector:
    """The detector fitted to a slide where it can be, else itself.

    Args:
        detector: any detector.
        tissue_rgb: uint8 (N, 3), pixels of the slide's tissue at 1 µm/px or finer.
    """
    return detector.for_slide(tissue_rgb) if isinstance(detector, AdaptableDetector) else detector


def margin_um(detector: Detector) -> float:
    """Surroundings that the detector wants to see around the area whose nuclei are kept, in µm."""
    return float(getattr(detector, "margin_um", DEFAULT_MARGIN_UM))


def check_image(rgb: NDArray[np.uint8], mpp: float) -> None:
    """What every detector may count on.

    Raises:
        DatasetError: the image is not uint8 RGB, or has no pixel.
        MppError: mpp is not a positive number.
    """
    shape, dtype = np.shape(rgb), getattr(rgb, "dtype", type(rgb).__name__)
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise DatasetError(f"image of shape {shape} and type {dtype}; RGB needed, uint8 (height, width, 3)")
    if 0 in shape:
        raise DatasetError(f"image of shape {shape} is empty; at least one pixel needed")
    if not (np.isfinite(mpp) and mpp > 0):
        raise MppError(f"image at {mpp} µm/px: a positive number is needed", reason="mpp_missing")


def detect(detector: Detector, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
    """Call a detector and check both what it is given and what it returns.

    Args:
        detector: any detector.
        rgb: uint8 (H, W, 3).
        mpp: µm/px of `rgb`.

    Returns:
        float32 (N, 3): x, y in px of `rgb`, score 0..1.

    Raises:
        DatasetError: the image is not RGB uint8, or the detector's answer is not what a detector returns.
        MppError: mpp is not a positive number.
    """
    check_image(rgb, mpp)
    return _checked_nuclei(detector(rgb, float(mpp)), detector, rgb.shape)


def detect_in_core(detector: Detector, rgb: NDArray[np.uint8], mpp: float, *, core: Box) -> NDArray[np.float32]:
    """Nuclei of an area that was read with surroundings: those in the half-open rectangle; neighbours share none.

    Args:
        detector: any detector.
        rgb: uint8 (H, W, 3), at least one pixel, the area and, where there is any, `margin_um` around it.
        mpp: µm/px of `rgb`.
        core: the area, in px of `rgb`.

    Returns:
        float32 (N, 3): x, y in px of the core (its corner is 0, 0), score.
    """
    check_image(rgb, mpp)
    # The core's corner on the grid, so that all cores whose corners are on it in the whole image see the same one.
    left, top = -int(core.x) % _TILE_GRID_PX, -int(core.y) % _TILE_GRID_PX
    nuclei = detect(detector, np.pad(rgb, ((top, 0), (left, 0), (0, 0)), mode="symmetric"), mpp)
    nuclei[:, 0] -= core.x + left
    nuclei[:, 1] -= core.y + top
    return nuclei[inside(nuclei[:, :2], core.width, core.height)]


def detect_image(detector: Detector, rgb: NDArray[np.uint8], mpp: float, *, tile_px: int = 2048) -> NDArray[np.float32]:
    """Nuclei of an image of any size, in tiles that overlap by the detector's margin and own what is inside them.

    Args:
        detector: any detector; adapt it to the image first, or each tile takes its own stain.
        rgb: uint8 (H, W, 3).
        mpp: µm/px of `rgb`.
        tile_px: about the side of the area a tile owns; bounds the memory.

    Returns:
        float32 (N, 3): x, y in px of `rgb`, score.
    """
    check_image(rgb, mpp)
    height, width = rgb.shape[:2]
    side = _on_grid(tile_px)
    margin = _on_grid(margin_um(detector) / mpp)
    found = [np.empty((0, 3), np.float32)]
    for x, y in _corners(width, height, side):
        left, top = max(0, x - margin), max(0, y - margin)
        core = Box(x - left, y - top, min(side, width - x), min(side, height - y))
        tile = np.ascontiguousarray(rgb[top : y + side + margin, left : x + side + margin])
        found.append(detect_in_core(detector, tile, mpp, core=core) + np.array([x, y, 0], np.float32))
    return np.concatenate(found)


def _corners(width: int, height: int, side: int) -> Iterator[tuple[int, int]]:
    return ((x, y) for y in range(0, height, side) for x in range(0, width, side))


def _on_grid(length_px: float) -> int:
    return max(1, int(np.ceil(length_px / _TILE_GRID_PX))) * _TILE_GRID_PX


def _resolve(target: str, name: str) -> object:
    """Whatever a dotted name points at, with either separator."""
    module_name, _, attribute = target.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"detector {name!r} cannot be loaded ({error}); give one of {', '.join(_NAMED)} or package.module:callable"
        ) from error


def _checked_nuclei(nuclei: object, detector: Detector, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What a detector returned as a float32 array of its own, or the error that says what is wrong with it."""
    who = f"detector {getattr(detector, '__name__', type(detector).__name__)}"
    try:
        points = np.array(nuclei, np.float32)
    except (TypeError, ValueError):
        raise DatasetError(f"{who} returned {type(nuclei).__name__}; an array (N, 3) of x, y, score needed") from None
    if points.ndim != 2 or points.shape[1] != 3:
        raise DatasetError(f"{who} returned an array of shape {points.shape}; (N, 3) of x, y, score needed")
    if not np.isfinite(points).all():
        raise DatasetError(f"{who} returned values that are not finite; drop them in the detector")
    if len(points) and ((points[:, :2] < 0).any() or (points[:, :2] > (shape[1], shape[0])).any()):
        raise DatasetError(
            f"{who} returned points outside the {shape[1]} x {shape[0]} px image; x, y in its pixels needed"
        )
    if len(points) and (points[:, 2].min() < 0 or points[:, 2].max() > 1):
        low, high = (figure(end, 0, 1) for end in (points[:, 2].min(), points[:, 2].max()))
        raise DatasetError(f"{who} returned scores of {low} to {high}; 0..1 needed")
    return points
