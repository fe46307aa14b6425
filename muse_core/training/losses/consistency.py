"""L_cons: outside the annotated region, the student follows what the teacher is sure of."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def pseudo_labels(
    probabilities: Tensor, *, nucleus_confidence: float = 0.7, background_confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """The teacher's class of each proposal, and whether it is sure enough to be learned from.

    Background counts, too; else the loss could only ever add nuclei. It has a threshold of its own: 19 proposals of 20
    are background, so that 0.95 says no more than the prior, while a nucleus rarely gets beyond 0.9 of one class.

    Args:
        probabilities: (N, C + 1) of the teacher, background last; no gradient flows.
        nucleus_confidence: least probability of the class of a nucleus.
        background_confidence: least probability of background.

    Returns:
        (N,) int64 class and (N,) bool.
    """
    confidence, classes = probabilities.detach().max(dim=-1)
    is_background = classes == probabilities.shape[-1] - 1
    least = torch.where(is_background, background_confidence, nucleus_confidence)
    return classes, confidence >= least


def consistency_loss(logits: Tensor, classes: Tensor, sure: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropy with the pseudo-labels that are sure, over the weight of all proposals passed.

    Divided by all and not by the sure ones alone: while the teacher is sure of little, it has little say.

    Args:
        logits: (N, C + 1) float32 of the student, proposals outside the annotated region.
        classes: (N,) int64 pseudo-labels.
        sure: (N,) bool.
        weights: (C + 1,), of `classification.class_weights`.

    Source: paper, eq. 9; the form is FixMatch's (Sohn et al., 2020), https://arxiv.org/abs/2001.07685, eq. 4.
    """
    each = functional.cross_entropy(logits, classes, reduction="none")
    row_weights = weights[classes]
    return (row_weights * each)[sure].sum() / row_weights.sum().clamp(min=1e-6)


def ramp_up(step: int, *, start: int, length: int) -> float:
    """0 before `start`, 1 from `start + length` on, exp(-5 (1 - t)²) between: a teacher's first guesses are poor.

    Source: Laine and Aila, Temporal Ensembling, https://arxiv.org/abs/1610.02242, section 3.
    """
    if step < start:
        return 0.0
    share = min(1.0, (step - start) / max(1, length))
    return math.exp(-5 * (1 - share) ** 2)
