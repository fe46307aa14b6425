"""The detector as a model that slide inference runs."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.detector.network import DetectorNetwork, mirrored, tops_of_heat
from muse_core.detector.weights_file import load_model
from muse_core.errors import ConfigError
from muse_core.models.detector import STRIDE
from muse_core.models.familiar import Familiar
from muse_core.models.heat import OUTPUT_STRIDE
from muse_core.models.nucleus_model import NETWORK_MPP, NucleiFound
from muse_core.models.tensor_file import hash_of

# With so much around them a grid shifted by odd amounts changes 0.04 % of nuclei; with 64 µm 0.01 %, with 32 0.09 %.
DETECTOR_MARGIN_UM = 48.0


class DetectorModel:
    """The learned detector as a model: its class maps, an auxiliary task of its training, say what each nucleus is.

    Args:
        weights: a file of `muse train-detector`.
        device: where the network runs.
        min_score: nuclei below are left out.

    Raises:
        ConfigError: the file is missing, is not a detector's weights, or does not say what its classes are.
    """

    takes_tensors = True
    embedding_size = 0
    familiar: Familiar | None = None  # its weights do not say what tissue they know

    def __init__(self, weights: Path, *, device: str, min_score: float = 0.5) -> None:
        model = load_model(weights)
        if not model.class_names:
            raise ConfigError(f"checkpoint {weights}: no names of its classes; train it anew with muse train-detector")
        self.class_names = model.class_names
        self.mpp = NETWORK_MPP
        self.margin_um = DETECTOR_MARGIN_UM
        self.grid_um = STRIDE * NETWORK_MPP
        self.model_id = hash_of(weights)
        self._network = DetectorNetwork(model.net, device=device)
        self._calibration = model.calibration
        self._min_score = min_score
        self._min_distance_px = model.min_distance_um / NETWORK_MPP

    def find(self, images: NDArray[np.uint8] | Tensor) -> list[NucleiFound]:
        """As `NucleusModel` says."""
        host = images.cpu().numpy() if isinstance(images, Tensor) else images
        height, width = host.shape[1:3]
        if height % STRIDE or width % STRIDE:
            images = host = mirrored(host)
        batch = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
        maps = self._network.maps(batch)
        return [_inside(self._points(one, rgb), width, height) for one, rgb in zip(maps, host, strict=True)]

    def _points(self, maps: NDArray[np.float32], rgb: NDArray[np.uint8]) -> NucleiFound:
        peaks = tops_of_heat(maps[0], rgb, min_distance_px=self._min_distance_px)
        peaks[:, 2] = self._calibration.score(peaks[:, 2])
        peaks = peaks[peaks[:, 2] >= self._min_score]
        height, width = maps.shape[1:]
        columns = np.clip(peaks[:, 0] / OUTPUT_STRIDE, 0, width - 1).astype(int)
        rows = np.clip(peaks[:, 1] / OUTPUT_STRIDE, 0, height - 1).astype(int)
        probabilities = np.ascontiguousarray(maps[1:, rows, columns].T)  # (C, N) -> (N, C)
        return NucleiFound(np.ascontiguousarray(peaks[:, :2]), peaks[:, 2], probabilities)


def _inside(found: NucleiFound, width: int, height: int) -> NucleiFound:
    """Those that lie in the image and not in what was mirrored at its rim."""
    return found.kept(np.asarray((found.xy < (width, height)).all(axis=1)))
