"""Heat to a score that is a chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """From the heat of a top to a score: sigmoid(slope * (logit(heat) - logit(heat_at_half))).

    Attributes:
        heat_at_half: the heat whose score is 0.5; on validation the threshold of the best F1.
        slope: fitted on validation by likelihood, so that scores say how often a point is a nucleus.
    """

    heat_at_half: float = 0.5
    slope: float = 1.0

    def score(self, heat: NDArray[np.floating]) -> NDArray[np.float32]:
        """Heat (N,) 0..1 to score (N,) float32 0..1."""
        return np.asarray(1 / (1 + np.exp(-self.slope * (logit(heat) - logit(self.heat_at_half)))), np.float32)


def fitted(
    heat: NDArray[np.floating], hit: NDArray[np.bool_], *, at_half: float, say: NDArray[np.float64] | None = None
) -> Calibration:
    """Put a heat at a score of 0.5, and fit the slope by likelihood, so that scores say how often they hit.

    Args:
        heat: (N,) 0..1 of points found on validation.
        hit: (N,) whether each is a nucleus.
        at_half: the heat whose score is 0.5.
        say: (N,) weight of each point; None for the same.
    """
    margin = logit(heat) - logit(at_half)
    slopes = np.linspace(0.2, 5, 97)
    signed = np.where(hit, 1, -1)[None, :] * slopes[:, None] * margin[None, :]  # (97, N)
    unlikely = np.logaddexp(0, -signed) * (1.0 if say is None else say)
    return Calibration(at_half, float(slopes[unlikely.sum(axis=1).argmin()]))


def logit(p: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """log(p / (1 - p)), of 1e-6..1 - 1e-6."""
    clipped = np.clip(np.asarray(p, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
