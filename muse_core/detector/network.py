"""A trained detector as it runs: what finding nuclei for a dataset (`learned`) and on slides (`model`) share."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.detector.ink import on_ink
from muse_core.machine.device import best_dtype
from muse_core.models.detector import STRIDE, NucleusNet
from muse_core.models.folding import made_to_run
from muse_core.models.heat import find_peaks

_MIDDLE_SIGMA_PX = 8.0  # see `find_peaks`; 6 gives F1 0.878 on validation, 8 gives 0.879
_KEEP_HEAT = 0.05  # tops below are noise whatever the calibration


class DetectorNetwork:
    """The network on a device, in bfloat16 where the processor has it, else in float32.

    Args:
        net: trained; what makes it fast changes it.
        device: where it runs.
    """

    def __init__(self, net: NucleusNet, *, device: str) -> None:
        self._device = torch.device(device)
        self.dtype = best_dtype(self._device)
        self._net = made_to_run(net, device=self._device, dtype=self.dtype)

    @torch.inference_mode()
    def maps(self, images: Tensor) -> NDArray[np.float32]:
        """Heat and class probabilities of images at 0.5 µm/px.

        Args:
            images: (B, H, W, 3) uint8 RGB, sides whole multiples of 16 px.

        Returns:
            (B, 1 + C, H / 2, W / 2), 0..1: the heat, then a map a class.
        """
        batch = images.to(self._device).permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), channels last
        logits = self._net(batch.to(self.dtype))
        maps = torch.cat([torch.sigmoid(logits[:, :1]), torch.softmax(logits[:, 1:], 1)], 1)
        return cast(NDArray[np.float32], maps.cpu().numpy())


def mirrored(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (B, H, W, 3) with sides that the network takes.

    Mirrored, not blank: a border of one colour would be an edge, and edges look like nuclei's.
    """
    height, width = images.shape[1:3]
    if not (height % STRIDE or width % STRIDE):
        return images
    return np.pad(images, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), "symmetric")


def tops_of_heat(heat: NDArray[np.float32], rgb: NDArray[np.uint8], *, min_distance_px: float) -> NDArray[np.float32]:
    """The tops of an image's heat map that are not ink: (N, 3) x, y in px of `rgb` and the heat, the hottest first."""
    tops = find_peaks(heat, min_heat=_KEEP_HEAT, min_distance_px=min_distance_px, middle_sigma_px=_MIDDLE_SIGMA_PX)
    return np.asarray(tops[~on_ink(rgb, tops)], np.float32)
