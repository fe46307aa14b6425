"""Centring of the teacher's logits, which keeps self-distillation from settling on one prototype.

Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, https://arxiv.org/abs/2104.14294,
section 3.1 and its algorithm 1; checked against a plain restatement of both in tests/losses.
"""

import torch
from torch import Tensor, nn

from muse_core.training.losses.ranks import summed_over_ranks


class TeacherCentre(nn.Module):
    """A running mean of the teacher's logits over all rows of all processes.

    Sum and count are gathered apart, so that processes and steps with different numbers of nuclei, or none, weigh by
    what they hold: a mean of means would not.

    Args:
        prototypes: K, the width of the logits.
        momentum: share of the old centre that is kept a step. Source: 0.9 in DINO.
    """

    centre: Tensor
    _sum: Tensor
    _count: Tensor

    def __init__(self, prototypes: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("_sum", torch.zeros(prototypes, dtype=torch.float64), persistent=False)
        self.register_buffer("_count", torch.zeros(1, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """Softmax of centred logits: (..., K) to (..., K) float32, rows sum to 1. The rows count in the next update."""
        rows = logits.float().flatten(0, -2)  # (..., K) -> (R, K)
        self._sum += rows.sum(dim=0, dtype=torch.float64)
        self._count += len(rows)
        return torch.softmax((logits.float() - self.centre) / temperature, dim=-1)

    @torch.no_grad()
    def update(self) -> None:
        """Move the centre towards the mean of all rows seen since the last update; with none anywhere, stay.

        Once a step, after its loss, by every process.
        """
        total = summed_over_ranks(torch.cat([self._sum, self._count]))
        count = total[-1]
        mean = total[:-1] / count.clamp(min=1)
        moved = self.centre.lerp(mean.to(self.centre.dtype), 1 - self.momentum)
        self.centre.copy_(torch.where(count > 0, moved, self.centre))
        self.discard()

    def discard(self) -> None:
        """Forget the rows seen since the last update, such as those of a step that is not taken."""
        self._sum.zero_()
        self._count.zero_()
