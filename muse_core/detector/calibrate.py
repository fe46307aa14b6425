"""The threshold of best F1, and scores fitted to what was right."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.calibration import Calibration, logit
from muse_core.detector.learned import LearnedDetector
from muse_core.detector.weights_file import DetectorWeights
from muse_core.labels import LabelledPatch
from muse_core.labels.matching import Counts, match

RADIUS_UM = 3.0  # 6 px at 20x, what the published scores on BRCA-M2C use


Tops = Sequence[NDArray[np.float32]]  # a patch each: (N, 3) x, y, heat


def tops_of(model: DetectorWeights, patches: Sequence[LabelledPatch]) -> Tops:
    """Every top of the heat maps of the patches: (N, 3) x, y, heat each."""
    detector = LearnedDetector.of_model(model)
    return [detector.heat_peaks(patch.image, patch.mpp) for patch in patches]


def best_threshold(tops: Tops, patches: Sequence[LabelledPatch]) -> tuple[float, float]:
    """The heat above which tops give the best F1 (each label its nearest top within 3 µm), and that F1."""
    best = (0.5, -1.0)
    for threshold in np.arange(0.1, 0.9, 0.01):
        f1 = count_hits(tops, patches, float(threshold)).f1
        if f1 > best[1]:
            best = (float(threshold), f1)
    return best


def count_hits(tops: Tops, patches: Sequence[LabelledPatch], threshold: float) -> Counts:
    """Hits, false points and misses of tops at least so hot, each label taking its nearest within 3 µm."""
    total = Counts()
    for found, patch in zip(tops, patches, strict=True):
        kept = found[found[:, 2] >= threshold]
        total += match(kept[:, :2], kept[:, 2], patch.xy, radius=RADIUS_UM / patch.mpp, rule="mcspatnet").counts
    return total


def calibrated(tops: Tops, patches: Sequence[LabelledPatch]) -> Calibration:
    """Put the best threshold at a score of 0.5, and fit the slope so that scores are likely to be what they say."""
    threshold, _ = best_threshold(tops, patches)
    heat, hit = [], []
    for found, patch in zip(tops, patches, strict=True):
        pairs = match(found[:, :2], found[:, 2], patch.xy, radius=RADIUS_UM / patch.mpp, rule="ocelot").pairs
        heat.append(found[:, 2])
        hit.append(np.isin(np.arange(len(found)), pairs[:, 0]))
    margin, correct = logit(np.concatenate(heat)) - logit(threshold), np.concatenate(hit)
    slopes = np.linspace(0.2, 5, 97)
    signed = np.where(correct, 1, -1)[None, :] * slopes[:, None] * margin[None, :]  # (97, N)
    unlikely = np.logaddexp(0, -signed).sum(axis=1)
    return Calibration(threshold, float(slopes[unlikely.argmin()]))
