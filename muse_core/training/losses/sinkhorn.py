"""Teacher probabilities that use all prototypes alike, instead of centring: Sinkhorn-Knopp over the rows at hand.

Those are the rows of one micro-batch, of all processes: the whole step's where `accumulate` is 1. With more, each
micro-batch spreads over all prototypes by itself, which is no longer the same step in smaller pieces.

It needs no memory of earlier steps, so that short runs on little data stay alive where a centre is still finding its
place. It is no part of MUSE, which says nothing of either.

Source: Caron et al., SwAV, https://arxiv.org/abs/2006.09882, section 3.1, as DINOv2 uses it on unequal numbers of rows,
https://arxiv.org/abs/2304.07193.
"""

import torch
from torch import Tensor

from muse_core.training.losses.ranks import summed_over_ranks

ITERATIONS = 3  # SwAV and DINOv2


@torch.no_grad()
def sinkhorn_probabilities(cosines: Tensor, temperature: float) -> Tensor:
    """Rows that sum to 1 and whose sum over all rows of all processes is about equal for all prototypes.

    Every process must call this, with no rows too.

    Args:
        cosines: (R, K) teacher logits, at most 1.
        temperature: above 0.03, or the smallest terms vanish in float32.
    """
    n_prototypes = cosines.shape[1]
    scores = torch.exp((cosines.float() - 1) / temperature)  # at most 1: nothing overflows
    for _ in range(ITERATIONS):
        scores = scores / (summed_over_ranks(scores.sum(dim=0)) * n_prototypes).clamp(min=1e-30)
        scores = scores / scores.sum(dim=1, keepdim=True)
    return scores
