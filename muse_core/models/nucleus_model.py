"""What a model finds in one image, and at what scale it looks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

from muse_core.models.familiar import Familiar

NETWORK_MPP = 0.5  # that the networks here are trained at


@dataclass(frozen=True, eq=False)
class NucleiFound:
    """Nuclei of one image, the surest first: what every network says, from its maps on.

    Attributes:
        xy: (N, 2) float32, continuous px of the image: the centre of the top-left pixel is (0.5, 0.5).
        score: (N,) float32, 0..1, how likely there is a nucleus; before calibration the network's own chance of it.
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

    def kept(self, mask: NDArray[np.bool_]) -> "NucleiFound":
        """Those that a mask (N,) keeps."""
        embedding = None if self.embedding is None else self.embedding[mask]
        return NucleiFound(self.xy[mask], self.score[mask], self.probabilities[mask], embedding)


class NucleusModel(Protocol):
    """Finds nuclei in images at its own µm/px, and says of which class each may be.

    Attributes:
        class_names: of the columns of `NucleiFound.probabilities`.
        mpp: µm/px that its images have.
        margin_um: surroundings that a nucleus needs to come out the same in every tile.
        grid_um: tiles start at multiples of this on the slide, for the same reason.
        model_id: a hash of the weights.
        embedding_size: features that come with each nucleus; 0 for none.
        takes_tensors: whether images may be tensors on its device, so that tiles decoded on a GPU stay there.
        familiar: the tissue that it knows, if its weights say so.
    """

    class_names: tuple[str, ...]
    mpp: float
    margin_um: float
    grid_um: float
    model_id: str
    embedding_size: int
    takes_tensors: bool
    familiar: Familiar | None

    def find(self, images: "NDArray[np.uint8] | Tensor") -> list[NucleiFound]:
        """The nuclei of each image.

        Args:
            images: (B, H, W, 3) uint8 RGB at `mpp`.

        Returns:
            One a image; x, y in px of it.
        """
        ...
