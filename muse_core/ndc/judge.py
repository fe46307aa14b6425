"""A model's answers on labelled patches: found once, then cut at any score and judged by any rule."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.labelled_patches import LabelledPatch
from muse_core.learned_detector import Calibration, logit
from muse_core.models.nuclei_found import NucleiFound
from muse_core.ndc.samples import NETWORK_MPP
from muse_core.ndc.scores import MAIN_RULE, JudgedPatch, counts_of, score_counts

Finder = Callable[[NDArray[np.uint8]], list[NucleiFound]]  # (B, H, W, 3) uint8 at 0.5 µm/px


def find_on_patches(find: Finder, patches: Sequence[LabelledPatch]) -> list[NucleiFound]:
    """What is found on each whole patch, in px of the patch; patches of another µm/px are resampled to 0.5."""
    return [_find_on(find, patch) for patch in patches]


def _find_on(find: Finder, patch: LabelledPatch) -> NucleiFound:
    scale = patch.mpp / NETWORK_MPP
    image = patch.image
    if scale != 1:
        # Given fx and no size, OpenCV maps by fx itself: a size would be rounded, and the map with it.
        kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=kernel), np.uint8)
    (found,) = find(image[None])
    return NucleiFound(found.xy / np.float32(scale), found.score, found.probabilities, found.embedding)


def judged(found: NucleiFound, patch: LabelledPatch, *, least_score: float = 0.0) -> JudgedPatch:
    """A patch's labels beside the nuclei found with at least a score."""
    kept = found.score >= least_score
    ids = found.class_ids[kept]
    return JudgedPatch(patch.name, patch.mpp, patch.xy, patch.class_ids, found.xy[kept], found.score[kept], ids)


def best_cut(found: Sequence[NucleiFound], patches: Sequence[LabelledPatch]) -> tuple[float, float, float]:
    """The score above which the mean class F1 by the main rule is best; that F1, and the detection F1 there."""
    n_classes = len(patches[0].class_names)
    best = (0.5, -1.0, -1.0)
    for cut in np.arange(0.1, 0.9, 0.02):
        rows = [judged(one, patch, least_score=float(cut)) for one, patch in zip(found, patches, strict=True)]
        scores = score_counts(counts_of(rows, n_classes, MAIN_RULE), MAIN_RULE)
        if scores.mean_class_f1 > best[1]:
            best = (float(cut), scores.mean_class_f1, scores.detection[0])
    return best


def calibrated(found: Sequence[NucleiFound], patches: Sequence[LabelledPatch], cut: float) -> Calibration:
    """Put a cut of 1 - p(background) at a score of 0.5, and fit the slope so that scores say how often they hit."""
    chance, hit = [], []
    for one, patch in zip(found, patches, strict=True):
        pairs = judged(one, patch).matched("dpa", 3.0 / patch.mpp).pairs
        chance.append(one.score)
        hit.append(np.isin(np.arange(len(one.score)), pairs[:, 0]))
    margin, correct = logit(np.concatenate(chance)) - logit(cut), np.concatenate(hit)
    slopes = np.linspace(0.2, 5, 97)
    signed = np.where(correct, 1, -1)[None, :] * slopes[:, None] * margin[None, :]  # (97, N)
    return Calibration(cut, float(slopes[np.logaddexp(0, -signed).sum(axis=1).argmin()]))
