"""Scores by every rule as the object that commands print and save."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from muse_core.labels.scores import (
    NDC_RULES,
    RADIUS_UM,
    JudgedPatch,
    RuleScores,
    bootstrap,
    counts_of,
    per_image,
    score_counts,
)

_DRAWS = 1000


def summary_of(
    patches: Sequence[JudgedPatch], class_names: Sequence[str], *, radius_um: float = RADIUS_UM, dataset: str = ""
) -> dict[str, Any]:
    """Scores of a split by every rule.

    Returns:
        `protocols`: a rule each, with `detection` and each of `classes` as f1, precision, recall and `f1_interval`
        (95 %, patches drawn with replacement), `mean_class_f1` and its interval, and the same averaged over images
        under `per_image`; `n_patches`, `n_labels`, `n_points`.
    """
    protocols = {}
    for rule in NDC_RULES:
        counts = counts_of(patches, len(class_names), rule, radius_um=radius_um, dataset=dataset)
        low, high = bootstrap(counts, rule, draws=_DRAWS)
        scores = _named(score_counts(counts, rule), class_names)
        places = [*scores["classes"].values(), scores["detection"]]
        for index, place in enumerate(places):
            place["f1_interval"] = _interval(low, high, index)
        scores["mean_class_f1_interval"] = _interval(low, high, len(places))
        protocols[rule] = {**scores, "per_image": _named(per_image(counts), class_names)}
    return {
        "protocols": protocols,
        "n_patches": len(patches),
        "n_labels": sum(len(patch.true_xy) for patch in patches),
        "n_points": sum(len(patch.xy) for patch in patches),
    }


def without_classes(summary: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """A summary in which classes that a model does not know have no score, and so the classes have no mean.

    Args:
        summary: of `summary_of`.
        class_names: of the classes without a score; with none of them the summary stays as it is.
    """
    if not class_names:
        return summary
    protocols = {}
    for rule, scores in summary["protocols"].items():
        kept = _unscored(scores, class_names) | {"mean_class_f1_interval": [None, None]}
        protocols[rule] = kept | {"per_image": _unscored(scores["per_image"], class_names)}
    return {**summary, "protocols": protocols}


def _unscored(scores: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    classes = {
        name: dict.fromkeys(one) | ({"f1_interval": [None, None]} if "f1_interval" in one else {})
        if name in class_names
        else one
        for name, one in scores["classes"].items()
    }
    return {**scores, "classes": classes, "mean_class_f1": None}


def _named(scores: RuleScores, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "detection": _triple(scores.detection),
        "classes": {name: _triple(one) for name, one in zip(class_names, scores.classes, strict=True)},
        "mean_class_f1": scores.mean_class_f1,
    }


def _triple(values: tuple[float, float, float]) -> dict[str, Any]:
    """JSON has no NaN: a class with no place in a rule's mean is null."""
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(("f1", "precision", "recall"), values, strict=True)
    }


def _interval(low: NDArray[Any], high: NDArray[Any], index: int) -> list[float | None]:
    ends = (float(low[index]), float(high[index]))
    return [None if math.isnan(end) else end for end in ends]
