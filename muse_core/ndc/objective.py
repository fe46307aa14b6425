"""Eq. 9 on a batch, with the auxiliary dense task: one number to minimise, and its parts for the curves."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.models.heat import NO_CLASS
from muse_core.models.ndc import Proposals
from muse_core.ndc.pseudo_labels import pseudo_labelled
from muse_core.ndc.samples import Sample
from muse_core.ndc.settings import FinetuneLossSettings
from muse_core.ndc.targets import DenseTargets, Targets, dense_targets
from muse_core.training.losses.classification import soft_targets, type_loss
from muse_core.training.losses.consistency import consistency_loss, pseudo_labels
from muse_core.training.losses.regression import regression_loss

_NEAR_WEIGHT = 3.0  # heat of a nucleus' middle weighs 1 + this; as the detector's training, where it was chosen


@dataclass(frozen=True)
class Losses:
    """Parts of the objective, unweighted, and their weighted sum; parts that were not computed are 0.

    `cons` is the paper's L_cons of proposals and, where the dense head is trained, the same for it.
    """

    total: Tensor
    reg: Tensor
    type: Tensor
    cons: Tensor
    dense: Tensor


def losses_of(
    proposals: Proposals,
    targets: Targets,
    samples: list[Sample],
    *,
    weights: Tensor,
    settings: FinetuneLossSettings,
    drawn: DenseTargets | None = None,
    teacher: Proposals | None = None,
    cons_share: float = 0.0,
) -> Losses:
    """Weighted sum of L_reg, L_type, L_cons and the dense task.

    Args:
        proposals: of the student.
        targets: of `targets_of` for them.
        samples: of the batch.
        weights: (C + 1,) of classes and background.
        settings: weights of the terms and their details.
        drawn: what the dense head is to say of the samples, where that was prepared.
        teacher: what the teacher says of the same pictures with their own colours; None while L_cons is off.
        cons_share: 0..1, how far L_cons is ramped up.
    """
    n_classes = proposals.logits.shape[-1] - 1
    logits, xy = proposals.logits.flatten(0, 1), proposals.xy.flatten(0, 1)  # (B, P, C + 1) -> (B*P, C + 1)
    known = targets.labelled & (targets.classes != UNKNOWN_CLASS)
    soft = soft_targets(targets.classes[known], n_classes, smoothing=settings.smoothing)
    reg = regression_loss(xy[targets.matched], targets.nucleus_xy)
    kind = type_loss(logits[known], soft, weights)
    dense = logits.new_zeros(())
    if settings.dense:
        dense = _dense_loss(proposals, drawn or _drawn(samples, settings), settings)
    cons = logits.new_zeros(())
    if teacher is not None and bool(targets.unlabelled.any()):
        cons = _cons_loss(logits, teacher, targets.unlabelled, weights=weights, settings=settings)
        if settings.dense:
            pseudo = pseudo_labelled(samples, teacher.dense, settings)
            cons = cons + settings.dense * _dense_loss(proposals, _drawn(pseudo, settings), settings)
    total = settings.reg * reg + settings.type * kind + settings.cons * cons_share * cons + settings.dense * dense
    return Losses(total, reg, kind, cons, dense)


def _cons_loss(
    logits: Tensor, teacher: Proposals, outside: Tensor, *, weights: Tensor, settings: FinetuneLossSettings
) -> Tensor:
    classes, sure = pseudo_labels(
        teacher.logits.flatten(0, 1)[outside].softmax(-1),
        nucleus_confidence=settings.nucleus_confidence,
        background_confidence=settings.background_confidence,
    )
    return consistency_loss(logits[outside], classes, sure, weights)


def _drawn(samples: list[Sample], settings: FinetuneLossSettings) -> DenseTargets:
    return dense_targets(samples, sigma_px=settings.heat_sigma_px)


def _dense_loss(proposals: Proposals, drawn: DenseTargets, settings: FinetuneLossSettings) -> Tensor:
    """Heat and classes at every pixel of the map: cross entropy with the heat, heavier near nuclei, and of classes."""
    heat, classes, known = (maps.to(proposals.dense.device) for maps in drawn)
    weight = known * (1 + _NEAR_WEIGHT * heat)
    each = functional.binary_cross_entropy_with_logits(proposals.dense[:, -1], heat, reduction="none")
    loss = (each * weight).sum() / weight.sum().clamp(min=1)
    if bool((classes != NO_CLASS).any()):
        smoothing = settings.smoothing
        class_logits = proposals.dense[:, :-1]
        loss = loss + functional.cross_entropy(
            class_logits, classes, ignore_index=NO_CLASS, label_smoothing=smoothing, weight=_even(classes, class_logits)
        )
    return loss


def _even(classes: Tensor, logits: Tensor) -> Tensor:
    """Weights of classes by the root of how rare they are in this batch."""
    counts = torch.bincount(classes[classes != NO_CLASS].flatten(), minlength=logits.shape[1]).float().clamp(min=1)
    share: Tensor = (counts.sum() / counts).sqrt()
    return share / share.mean()
