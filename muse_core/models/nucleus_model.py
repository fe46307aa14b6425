"""What a model finds in one image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NucleiFound:
    """Nuclei of one image, the surest first.

    Attributes:
        xy: (N, 2) float32, continuous px of the image: the centre of the top-left pixel is (0.5, 0.5).
        score: (N,) float32, 0..1, how likely there is a nucleus.
        probabilities: (N, C) float32 of its classes, rows that sum to 1.
        embedding: (N, E) float16 features at the nuclei, where they were asked for.
    """

    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float16] | None = None

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """(N,) the likeliest class of each."""
        if not self.probabilities.shape[1]:
            return np.zeros(len(self.xy), np.int64)
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)
