"""The threshold of best F1, and scores fitted to what was right."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.calibration import Calibration, fitted
from muse_core.detector.learned import LearnedDetector
from muse_core.detector.weights_file import DetectorWeights
from muse_core.labels.matching import Counts, match
from muse_core.labels.regions import Region

RADIUS_UM = 3.0  # 6 px at 20x, what the published scores on BRCA-M2C use
Tops = Sequence[NDArray[np.float32]]  # a region each: (N, 3) x, y, heat


def tops_of(model: DetectorWeights, regions: Sequence[Region]) -> Tops:
    """Every top of the heat maps of the regions' annotated parts: (N, 3) x, y, heat each."""
    detector = LearnedDetector(model)
    tops = [detector.heat_peaks(region.image, region.mpp) for region in regions]
    return [found[region.is_annotated(found[:, :2])] for found, region in zip(tops, regions, strict=True)]


def best_threshold(tops: Tops, regions: Sequence[Region]) -> tuple[float, float]:
    """The heat above which tops give the best F1 (each label its nearest top within 3 µm), and that F1.

    It is the mean over the regions' sources: none is bought with another, however many nuclei it has.
    """
    best = (0.5, -1.0)
    for threshold in np.arange(0.1, 0.9, 0.01):
        f1 = float(np.mean([one.f1 for one in counts_by_source(tops, regions, float(threshold)).values()]))
        if f1 > best[1]:
            best = (float(threshold), f1)
    return best


def counts_by_source(tops: Tops, regions: Sequence[Region], threshold: float) -> dict[str, Counts]:
    """Hits, false points and misses of tops at least so hot, each label taking its nearest within 3 µm."""
    totals: dict[str, Counts] = {}
    for found, region in zip(tops, regions, strict=True):
        kept = found[found[:, 2] >= threshold]
        counts = match(kept[:, :2], kept[:, 2], region.xy, radius=RADIUS_UM / region.mpp, rule="mcspatnet").counts
        totals[region.source] = totals.get(region.source, Counts()) + counts
    return totals


def calibrated(tops: Tops, regions: Sequence[Region]) -> Calibration:
    """Put the best threshold at a score of 0.5, and fit the slope so that scores are likely to be what they say.

    Each of the regions' sources has one say in the slope, too.
    """
    threshold, _ = best_threshold(tops, regions)
    sizes: dict[str, int] = {}
    for found, region in zip(tops, regions, strict=True):
        sizes[region.source] = sizes.get(region.source, 0) + len(found)
    heat, hit, say = [], [], []
    for found, region in zip(tops, regions, strict=True):
        pairs = match(found[:, :2], found[:, 2], region.xy, radius=RADIUS_UM / region.mpp, rule="ocelot").pairs
        heat.append(found[:, 2])
        hit.append(np.isin(np.arange(len(found)), pairs[:, 0]))
        say.append(np.full(len(found), 1 / max(1, sizes[region.source])))
    return fitted(np.concatenate(heat), np.concatenate(hit), at_half=threshold, say=np.concatenate(say))
