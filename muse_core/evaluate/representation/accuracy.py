"""Accuracy over the nuclei of a split, in percent, and where it is lost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def accuracy_percent(predicted: Tensor, class_ids: Tensor) -> float:
    """Share of nuclei (N,) given their class, in percent."""
    return 100 * float((predicted == class_ids).double().mean())


def accuracy_report(predicted: Tensor, class_ids: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """What every protocol tells of its predictions.

    Returns:
        `accuracy` and `majority_accuracy` (of always answering the split's commonest class) in percent, `n_nuclei`,
        `per_class` (percent, None for a class without nuclei) and `confusion` (a row a true class, a column a
        predicted one).
    """
    n = len(class_names)
    confusion = torch.bincount(class_ids * n + predicted, minlength=n * n).view(n, n)
    counts = confusion.sum(dim=1)
    right = confusion.diagonal()
    return {
        "accuracy": accuracy_percent(predicted, class_ids),
        "majority_accuracy": 100 * float(counts.max()) / float(counts.sum()),
        "n_nuclei": len(class_ids),
        "per_class": {
            name: 100 * float(hit) / float(count) if count else None
            for name, hit, count in zip(class_names, right, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }
