"""Whether a run is alive: numbers that tell a collapse early, and the rule that ends a dead run.

Self-distillation has two trivial solutions: the teacher says the same of everything because it prefers one prototype,
or because it prefers none. Both leave the loss finite and falling.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from muse_core.errors import TrainingError, figure

# A teacher that is this near the uniform distribution (nats) tells the student nothing; at the start it is above 1.
_LEAST_KL = 0.005
# Rows of length 1 that point everywhere have a spread of 1, rows that are all the same have 0.
_LEAST_SPREAD = 0.02
_LEAST_MARGINAL = 0.05  # nats; rows that spread over two prototypes evenly have 0.69
_LEAST_ROWS = 16  # fewer say too little
_PATIENCE = 3  # checks in a row


class Health(NamedTuple):
    """What one head's teacher says of a batch.

    Attributes:
        entropy: mean over rows of the teacher's entropy, nats.
        kl_to_uniform: log K minus that; 0 when the teacher has no preference.
        marginal_entropy: entropy of the mean over rows, nats; 0 when all rows go to one prototype.
        used: share of the prototypes that could be some row's first choice and are.
        spread: standard deviation of the features of length 1, times sqrt(width): 1 isotropic, 0 collapsed.
        n_rows: rows this was told from.
    """

    entropy: float
    kl_to_uniform: float
    marginal_entropy: float
    used: float
    spread: float
    n_rows: int


@torch.no_grad()
def health_of(probabilities: Tensor, bottleneck: Tensor) -> Health:
    """Look at a teacher's probabilities (R, K) and the bottleneck rows (R, E) of length 1 that they come from."""
    n_rows, k = probabilities.shape
    if n_rows == 0:
        return Health(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    entropy = float(_entropy(probabilities).mean())
    used = len(torch.unique(probabilities.argmax(dim=1))) / min(k, n_rows)
    spread = float(bottleneck.float().std(dim=0, correction=0).square().sum().sqrt())
    marginal = float(_entropy(probabilities.mean(dim=0, keepdim=True)))
    return Health(entropy, math.log(k) - entropy, marginal, used, spread, n_rows)


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1)


class CollapseWatch:
    """Ends a run whose teacher has said nothing for several checks in a row.

    Args:
        name: of the head, for the message.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bad = 0

    def check(self, health: Health, step: int) -> None:
        """Look at one more batch.

        Raises:
            TrainingError: collapsed, with what was seen and what to change.
        """
        if health.n_rows < _LEAST_ROWS:
            return
        fault = _fault(health)
        self._bad = self._bad + 1 if fault else 0
        if fault and self._bad >= _PATIENCE:
            raise TrainingError(
                f"step {step}: the {self._name} teacher has collapsed, {fault} in {_PATIENCE} checks in a row;"
                " lower learning_rate or loss.teacher_temperature, or raise optimiser.momentum",
                reason="collapsed",
            )


def _fault(health: Health) -> str | None:
    if health.kl_to_uniform < _LEAST_KL:
        return f"KL to uniform {figure(health.kl_to_uniform, _LEAST_KL, decimals=4)} nats (needs {_LEAST_KL})"
    if health.marginal_entropy < _LEAST_MARGINAL:
        return (
            f"entropy of what it says on the whole {figure(health.marginal_entropy, _LEAST_MARGINAL, decimals=4)} nats"
            f" (needs {_LEAST_MARGINAL}), {health.used:.1%} of the prototypes used"
        )
    if health.spread < _LEAST_SPREAD:
        return f"spread of the features {figure(health.spread, _LEAST_SPREAD, decimals=4)} (needs {_LEAST_SPREAD})"
    return None
