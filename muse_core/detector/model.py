"""The detector as a model that slide inference runs."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.detector.ink import on_ink
from muse_core.detector.learned import MIDDLE_SIGMA_PX
from muse_core.detector.weights_file import load_model
from muse_core.errors import ConfigError
from muse_core.machine.device import best_dtype
from muse_core.models.detector import STRIDE
from muse_core.models.familiar import Familiar
from muse_core.models.folding import made_to_run
from muse_core.models.heat import OUTPUT_STRIDE, find_peaks
from muse_core.models.nucleus_model import NETWORK_MPP, NucleiFound
from muse_core.models.tensor_file import hash_of

_KEEP_HEAT = 0.05  # tops below are noise whatever the calibration

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
        self._device = torch.device(device)
        self._dtype = best_dtype(self._device)
        self._net = made_to_run(model.net, device=self._device, dtype=self._dtype)
        self._calibration = model.calibration
        self._min_score = min_score
        self._min_distance_px = model.min_distance_um / NETWORK_MPP

    def find(self, images: NDArray[np.uint8] | Tensor) -> list[NucleiFound]:
        """As `NucleusModel` says."""
        host = images.cpu().numpy() if isinstance(images, Tensor) else images
        height, width = host.shape[1:3]
        if height % STRIDE or width % STRIDE:
            # Mirrored, not blank: a border of one colour would be an edge, and edges look like nuclei's.
            images = host = np.pad(host, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), "symmetric")
        batch = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
        maps = self._maps(batch).cpu().numpy()
        return [_inside(self._points(one, rgb), width, height) for one, rgb in zip(maps, host, strict=True)]

    @torch.inference_mode()
    def _maps(self, images: Tensor) -> Tensor:
        """Heat and class probabilities, (B, 1 + C, H / 2, W / 2) float32."""
        batch = images.to(self._device).permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), channels last
        logits = self._net(batch.to(self._dtype))
        return torch.cat([torch.sigmoid(logits[:, :1]), torch.softmax(logits[:, 1:], 1)], 1)

    def _points(self, maps: NDArray[np.float32], rgb: NDArray[np.uint8]) -> NucleiFound:
        peaks = find_peaks(
            maps[0],
            min_heat=_KEEP_HEAT,
            min_distance_px=self._min_distance_px,
            middle_sigma_px=MIDDLE_SIGMA_PX,
        )
        peaks = peaks[~on_ink(rgb, peaks)]
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
