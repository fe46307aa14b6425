"""What tissue a model knows, as a few numbers a window, and how unlike it other tissue is.

A window is described by the stain of its nuclei and of what is around them, how far they stand out, how sharp it is,
how dense nuclei lie and how sure the model is of them; all on optical density relative to the slide's glass, so that a
dim or yellow scan is none of its business. What windows of the labelled tissue look like is kept with the weights. Of
another slide, doubt is the share of its windows that are less like them than 99 % of themselves: 0.01 on tissue as it
was learned from, 1 where nothing is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW_UM = 96.0
FEATURES = (
    "red in nuclei",
    "blue in nuclei",
    "red around nuclei",
    "blue around nuclei",
    "contrast of nuclei",
    "sharpness",
    "density of nuclei",
    "scores of nuclei",
)

SOME_DOUBT, MUCH_DOUBT = 0.15, 0.5  # of a slide; organs that were left out of training have 0 to 0.05

_LIMIT_PERCENT = 99.0
_SHRINK = 0.1  # of the covariance towards its diagonal: windows of a few dozen images say little of 28 pairs
_NUCLEUS_UM, _AROUND_UM = 2.0, 4.0  # this near a nucleus' middle is nucleus; farther than that is what is around
_LEAST_OD = 0.02
_GLASS_PERCENT = 99.0


@dataclass(frozen=True)
class Familiar:
    """Windows of the tissue that a model learned from, as a Gaussian.

    Attributes:
        mean: (F,) of `FEATURES`.
        sd: (F,).
        precision: (F, F) inverse of the covariance.
        limit: squared Mahalanobis distance that one in a hundred of them lies beyond.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        return asdict(self)


@dataclass(frozen=True)
class Doubt:
    """How unlike the tissue that a model knows a slide is.

    Attributes:
        share: of its windows that are less like it than 99 % of itself; 0..1.
        why: the two features that are farthest off, the farthest first.
    """

    share: float
    why: tuple[str, str]


def familiar_from(values: dict[str, Any]) -> Familiar:
    """Read what `Familiar.as_json` gave back from JSON.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    size = len(FEATURES)
    mean, sd = (np.asarray(values[name], np.float64).reshape(size) for name in ("mean", "sd"))
    precision = np.asarray(values["precision"], np.float64).reshape(size, size)
    return _familiar(mean, sd, precision, float(values["limit"]))


def glass_of(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The glass of an image by itself, RGB 0..255: its brightest pixels, which without glass are its palest tissue."""
    return np.asarray(np.percentile(image.reshape(-1, 3)[:: max(1, image.size // 300_000)], _GLASS_PERCENT, axis=0))


def describe(
    image: NDArray[np.uint8],
    xy: NDArray[np.floating],
    score: NDArray[np.floating],
    *,
    mpp: float,
    glass: Sequence[float] | NDArray[np.floating],
) -> NDArray[np.float64] | None:
    """The features of one window; None without a nucleus in it.

    Args:
        image: (n, n, 3) uint8 RGB.
        xy: (N, 2) nuclei, px of the window.
        score: (N,) of them, 0..1.
        mpp: µm/px of the window.
        glass: RGB 0..255 of the slide's glass.
    """
    height, width = image.shape[:2]
    inside = ((xy >= 0) & (xy < (width, height))).all(axis=1)
    xy, score = xy[inside], score[inside]
    if not len(xy):
        return None
    density = np.maximum(np.log((np.asarray(glass, np.float32) + 1) / (image.astype(np.float32) + 1)), 0)  # (n, n, 3)
    empty = np.full((height, width), 255, np.uint8)
    empty[xy[:, 1].astype(int), xy[:, 0].astype(int)] = 0
    away_um = cv2.distanceTransform(empty, cv2.DIST_L2, 3) * mpp
    grey = density.mean(axis=2)
    around = (away_um > _AROUND_UM) & (grey > _LEAST_OD)
    nuclei_od = density[away_um < _NUCLEUS_UM].mean(axis=0) + _LEAST_OD / 3
    around_od = (density[around].mean(axis=0) if around.any() else np.zeros(3)) + _LEAST_OD / 3
    edges = np.abs(cv2.Laplacian(np.ascontiguousarray(grey), cv2.CV_32F)).mean()
    mm2 = height * width * mpp**2 * 1e-6
    return np.array(
        [
            nuclei_od[0] / nuclei_od.sum(),
            nuclei_od[2] / nuclei_od.sum(),
            around_od[0] / around_od.sum(),
            around_od[2] / around_od.sum(),
            np.log(nuclei_od.sum() / around_od.sum()),
            np.log((edges + 1e-4) / (grey.std() + 1e-2)),
            np.log(len(xy) / mm2),
            float(np.mean(score)),
        ],
        np.float64,
    )


def windows_of(
    image: NDArray[np.uint8],
    xy: NDArray[np.floating],
    score: NDArray[np.floating],
    *,
    mpp: float,
    network_mpp: float,
) -> list[NDArray[np.float64]]:
    """An image that is glass enough by itself, described window by window, at the scale that models see.

    Args:
        image: (H, W, 3) uint8 RGB.
        xy: (N, 2) nuclei, px of it.
        score: (N,) of them.
        mpp: µm/px of it.
        network_mpp: that windows have.
    """
    scale = mpp / network_mpp
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    glass, side = glass_of(image), round(WINDOW_UM / network_mpp)
    found = []
    for top in range(0, max(1, size[1] - side + 1), side):
        for left in range(0, max(1, size[0] - side + 1), side):
            window = image[top : top + side, left : left + side]
            described = describe(window, xy * scale - (left, top), score, mpp=network_mpp, glass=glass)
            found += [] if described is None else [described]
    return found


def fitted(windows: NDArray[np.float64]) -> Familiar | None:
    """The Gaussian of described windows (M, F); None of too few to say anything."""
    if len(windows) < 2 * windows.shape[1]:
        return None
    mean, covariance = np.asarray(windows.mean(axis=0), np.float64), np.cov(windows.T)
    covariance = (1 - _SHRINK) * covariance + _SHRINK * np.diag(np.diag(covariance)) + 1e-8 * np.eye(len(mean))
    precision = np.asarray(np.linalg.inv(covariance), np.float64)
    limit = float(np.percentile(_distances(windows, mean, precision), _LIMIT_PERCENT))
    return _familiar(mean, np.sqrt(np.diag(covariance)), precision, limit)


def doubt_of(windows: NDArray[np.float64], familiar: Familiar) -> Doubt:
    """How unlike what is familiar described windows (M, F), at least one, are."""
    mean, sd = np.asarray(familiar.mean), np.asarray(familiar.sd)
    far = _distances(windows, mean, np.asarray(familiar.precision)) > familiar.limit
    off = np.abs((windows - mean) / sd).mean(axis=0)
    first, second = np.argsort(-off)[:2].tolist()
    return Doubt(float(far.mean()), (FEATURES[first], FEATURES[second]))


def _distances(
    windows: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    apart = windows - mean
    return np.asarray(np.einsum("mi,ij,mj->m", apart, precision, apart), np.float64)


def _familiar(
    mean: NDArray[np.float64], sd: NDArray[np.float64], precision: NDArray[np.float64], limit: float
) -> Familiar:
    """Rounded: six digits are more than the windows say."""
    rounded = [[float(f"{value:.6g}") for value in row] for row in (mean, sd, *precision)]
    return Familiar(tuple(rounded[0]), tuple(rounded[1]), tuple(tuple(row) for row in rounded[2:]), limit)
