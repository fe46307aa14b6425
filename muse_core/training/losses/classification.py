"""L_type: classes of proposals within the annotated region, background among them."""

import torch
from torch import Tensor
from torch.nn import functional


def class_weights(counts: Tensor, *, power: float = 0.5, background: float = 0.4) -> Tensor:
    """Weights of the classes and of the background, from how often each class was labelled.

    A class weighs its frequency to the power of `-power`, scaled so that the nuclei's mean weight is 1: 0 treats
    nuclei alike, 1 classes alike. A class that was never labelled gets the weight of the rarest that was: it comes up
    as a wrong guess only.

    Args:
        counts: (C,) labelled nuclei of each class; at least one nucleus.
        power: 0..1. Half way, as F1 of each class counts both its own misses and what others lose to it.
        background: weight of a proposal that is no nucleus. Source of 0.4: PromptNucSeg, prompter.

    Returns:
        (C + 1,) float32; the background comes last.
    """
    seen = counts.double().clamp(min=float(counts[counts > 0].min()))
    weights = seen**-power
    weights = weights * counts.sum() / (weights * counts).sum()
    return torch.cat([weights, weights.new_tensor([background])]).float()


def soft_targets(class_ids: Tensor, n_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """One-hot rows (N, C + 1); of a nucleus, `smoothing` is shared among all C classes, as annotators confuse those.

    Background stays hard: whether a nucleus is there is labelled with more care than which class it is.

    Args:
        class_ids: (N,) int64, 0..C - 1 of a nucleus, C of background.
        n_classes: C.
        smoothing: 0..1.
    """
    targets = functional.one_hot(class_ids, n_classes + 1).float()
    nuclei = class_ids < n_classes
    targets[nuclei] *= 1 - smoothing
    targets[nuclei, :n_classes] += smoothing / n_classes
    return targets


def type_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy with soft targets, each row weighted by its target's classes, over the sum of those weights.

    Rows outside the annotated region must not be passed: nothing is known there. 0 where there is no row.

    Args:
        logits: (N, C + 1) float32, background last.
        targets: (N, C + 1), rows that sum to 1.
        weights: (C + 1,), of `class_weights`.

    Source: paper, eq. 9; torch.nn.functional.cross_entropy with weights, for soft targets.
    """
    row_weights = targets @ weights  # (N,)
    each = -(targets * functional.log_softmax(logits, dim=-1)).sum(-1)
    return (row_weights * each).sum() / row_weights.sum().clamp(min=1e-6)
