"""The cross-entropy that both losses are made of: student rows against the teacher rows they are paired with.

    loss = sum over r, g of  weight[r, g] * CE(teacher[teacher_row[r, g]], softmax(student[r] / temperature))

CE(p, z) is computed as logsumexp(z) - <p, z>, which never holds a second copy of the student's log-probabilities; a
student row that several teacher rows teach costs one logsumexp.

Source: DINO's loss, https://arxiv.org/abs/2104.14294; the form with logsumexp follows from sum(p) = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Pairing(NamedTuple):
    """Which teacher rows each of R student rows learns from; up to G of them.

    Attributes:
        teacher_row: (R, G) int64, place in the teacher's table of probabilities; any valid place where the weight is 0.
        weight: (R, G) float32, what the pair counts in the loss; 0 for no pair.
    """

    teacher_row: Tensor
    weight: Tensor


def distillation_loss(
    bottleneck: Tensor,
    prototypes: Callable[[Tensor], Tensor],
    teacher_probabilities: Tensor,
    pairing: Pairing,
    *,
    temperature: float = 0.1,
    chunk_rows: int = 4096,
) -> Tensor:
    """The weighted sum of cross-entropies over all pairs, a scalar float32.

    Args:
        bottleneck: (R, E) student features before the prototypes.
        prototypes: makes logits (r, K) of features (r, E).
        teacher_probabilities: (T, K) float32, no gradient.
        pairing: R rows of pairs.
        temperature: of the student. Source: 0.1 in DINO.
        chunk_rows: with more rows than this, logits are made in chunks and again in the backward pass, so that no more
            than one chunk of them is in memory. 4,096 rows of 65,536 prototypes are 1 GB.

    With no rows the loss is 0 and its gradient reaches the head as zeros, as DistributedDataParallel needs.
    """

    def part(rows: Tensor, teacher_row: Tensor, weight: Tensor) -> Tensor:
        logits = prototypes(rows).float() / temperature
        loss = (weight.sum(dim=1) * torch.logsumexp(logits, dim=1)).sum()
        for g in range(weight.shape[1]):
            target = teacher_probabilities[teacher_row[:, g]] * weight[:, g, None]  # (r, K)
            loss = loss - (target * logits).sum()
        return loss

    if len(bottleneck) <= chunk_rows:
        return part(bottleneck, *pairing)
    chunks = zip(*(torch.split(tensor, chunk_rows) for tensor in (bottleneck, *pairing)), strict=True)
    losses = [checkpoint(part, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.stack(losses).sum()
