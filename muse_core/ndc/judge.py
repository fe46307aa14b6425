"""A model's answers on annotated regions: found once, then cut at any score and judged by any rule."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.calibration import Calibration, fitted
from muse_core.errors import ConfigError
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM, JudgedPatch, counts_of, score_counts
from muse_core.models.nucleus_model import NETWORK_MPP, NucleiFound
from muse_core.ndc.model import NdcModel
from muse_core.slide.resample import scaled_image

_SHIFT_STEP, _MOST_SHIFT = 0.2, 1.2  # of logits
_SHIFT_GAIN = 0.0005  # less is chance
TIE = 0.002  # of mean class F1: a tenth of how far validation's ten patches leave it open

Finder = Callable[[NDArray[np.uint8]], list[NucleiFound]]  # (B, H, W, 3) uint8 at 0.5 µm/px


def find_on_regions(find: Finder, regions: Sequence[Region]) -> list[NucleiFound]:
    """What is found on each whole image, in px of it; images of another µm/px are resampled to 0.5."""
    return [_find_on(find, region) for region in regions]


def _find_on(find: Finder, region: Region) -> NucleiFound:
    scale = region.mpp / NETWORK_MPP
    (found,) = find(scaled_image(region.image, scale)[None])
    return replace(found, xy=found.xy / np.float32(scale))


def judged(found: NucleiFound, region: Region, *, least_score: float = 0.0) -> JudgedPatch:
    """A region's labels beside the nuclei found within it with at least a score.

    Of an image that is annotated as a whole every label counts, also one whose dot lies on the last rim of the image.
    """
    kept = (found.score >= least_score) & region.is_annotated(found.xy)
    known = np.ones(len(region.xy), bool) if region.annotated is None else region.is_annotated(region.xy)
    return JudgedPatch(
        region.name,
        region.mpp,
        region.xy[known],
        region.class_ids[known],
        found.xy[kept],
        found.score[kept],
        found.class_ids[kept],
    )


def judged_rows(
    model: NdcModel, regions: Sequence[Region], *, class_names: Sequence[str], min_score: float = 0.5
) -> list[JudgedPatch]:
    """A model's answers with at least a score on each region, beside the labels, whose classes `class_names` names.

    Raises:
        ConfigError: no class of the model's is one of the labels'.
    """
    if not set(class_names) & set(model.class_names):
        raise ConfigError(
            f"model of classes {', '.join(model.class_names)}: none is one of the labels' {', '.join(class_names)}; "
            "fine-tune it on them first"
        )
    found = [_by_name(one, model.class_names, class_names) for one in find_on_regions(model.find, regions)]
    return [judged(one, region, least_score=min_score) for one, region in zip(found, regions, strict=True)]


def _by_name(found: NucleiFound, own: Sequence[str], wanted: Sequence[str]) -> NucleiFound:
    """Probabilities in the order of other names; a class that only the model knows goes into one more column each."""
    if tuple(own) == tuple(wanted):
        return found
    columns = np.zeros((len(found.xy), len(wanted) + len(own)), np.float32)
    for index, name in enumerate(own):
        place = list(wanted).index(name) if name in wanted else len(wanted) + index
        columns[:, place] = found.probabilities[:, index]
    return replace(found, probabilities=columns)


def best_cut(found: Sequence[NucleiFound], regions: Sequence[Region], n_classes: int) -> tuple[float, float, float]:
    """The score above which the mean class F1 by the main rule is best; that F1, and the detection F1 there.

    Both are means over the regions' sources, so that none is bought with another; a source without classes has no say
    in the first. Of cuts that are as good as the best one, as far as so few nuclei can tell, the one of the best
    detection F1.
    """
    cuts = [(float(cut), *_mean_f1(found, regions, n_classes, float(cut))) for cut in np.arange(0.1, 0.9, 0.02)]
    best_mean = max(mean for _, mean, _ in cuts)
    return max((one for one in cuts if one[1] >= best_mean - TIE), key=lambda one: one[2])


def best_shift(
    found: Sequence[NucleiFound], regions: Sequence[Region], n_classes: int, cut: float
) -> NDArray[np.float64]:
    """What to add to the classes' logits, (C,), for the best mean class F1, the mean over sources.

    Training weighs classes by how rare they are in it, which need not be what F1 asks for. One class after another, in
    steps that a few thousand nuclei can tell apart; 0 where there is no class to judge by.
    """
    shift = np.zeros(n_classes)
    best, _ = _mean_f1(found, regions, n_classes, cut)
    for _ in range(2):
        for class_id in range(n_classes):
            for step in (-_SHIFT_STEP, _SHIFT_STEP):
                while True:
                    tried = shift.copy()
                    tried[class_id] += step
                    f1, _ = _mean_f1([shifted(one, tried) for one in found], regions, n_classes, cut)
                    if f1 <= best + _SHIFT_GAIN or abs(tried[class_id]) > _MOST_SHIFT:
                        break
                    shift, best = tried, f1
    return shift


def shifted(found: NucleiFound, shift: NDArray[np.float64]) -> NucleiFound:
    """With something added to the logits of the classes."""
    weighed = found.probabilities * np.exp(shift).astype(np.float32)
    return replace(found, probabilities=weighed / np.maximum(weighed.sum(axis=1, keepdims=True), 1e-9))


def _mean_f1(
    found: Sequence[NucleiFound], regions: Sequence[Region], n_classes: int, cut: float
) -> tuple[float, float]:
    """Mean class F1 and detection F1 above a cut, means over sources; without classes the second is both."""
    rows = [judged(one, region, least_score=cut) for one, region in zip(found, regions, strict=True)]
    by_source: dict[str, list[JudgedPatch]] = {}
    for row, region in zip(rows, regions, strict=True):
        by_source.setdefault(region.source, []).append(row)
    scores = [score_counts(counts_of(members, n_classes, MAIN_RULE), MAIN_RULE) for members in by_source.values()]
    means = [
        one.mean_class_f1
        for one, members in zip(scores, by_source.values(), strict=True)
        if any((row.true_ids != UNKNOWN_CLASS).any() for row in members)
    ]
    detection = float(np.mean([one.detection[0] for one in scores]))
    return (float(np.mean(means)) if means else detection), detection


def calibrated(found: Sequence[NucleiFound], regions: Sequence[Region], cut: float) -> Calibration:
    """Put a cut of 1 - p(background) at a score of 0.5, and fit the slope so that scores say how often they hit."""
    chance, hit = [], []
    for one, region in zip(found, regions, strict=True):
        pairs = judged(one, region).matched("dpa", RADIUS_UM / region.mpp).pairs
        chance.append(one.score)
        hit.append(np.isin(np.arange(len(one.score)), pairs[:, 0]))
    return fitted(np.concatenate(chance), np.concatenate(hit), at_half=cut)
