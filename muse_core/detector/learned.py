"""The learned nucleus detector: weights in the package, any µm/px in, points out.

    from muse_core.detector.learned import LearnedDetector
    nuclei = LearnedDetector()(rgb, mpp=0.25)  # (N, 3): x, y in px of rgb, score

The network (`network`, which slide inference runs by `model`) sees 0.5 µm/px. Its answers depend a little on
where its grid of 16 px lies, so tiles should start at multiples of `grid_um` on the slide, read at the slide's own
µm/px or a whole multiple of it: then a nucleus comes out the same in every tile that holds it and `margin_um` around
it.
"""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from muse_core.detector.network import DetectorNetwork, mirrored, tops_of_heat
from muse_core.detector.weights_file import DetectorWeights, load_model
from muse_core.errors import ConfigError, DatasetError, MppError
from muse_core.images.plausible_mpp import NUCLEI_MPP
from muse_core.machine.threads import torch_threads
from muse_core.models.detector import STRIDE, NucleusNet
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.slide.resample import scaled_image

_SCALE_TOLERANCE = 0.06  # relative; nuclei that much smaller or larger cost less than 0.004 of F1 on validation
_TILE_PX = 2304  # network px that a tile owns at most: bounds the memory to about a GB in bfloat16


class LearnedDetector:
    """Nucleus detector in the sense of `muse_core.detector.detect`.

    Args:
        model: weights in memory, which are left as they are; None for those that ship.
        device: where the network runs, such as cpu or cuda.
        min_score: points below are left out; 0.5 gives the best F1 on validation.

    Raises:
        ConfigError: min_score is not in 0..1.
    """

    margin_um: ClassVar[float] = 64.0
    grid_um: ClassVar[float] = STRIDE * NETWORK_MPP

    def __init__(self, model: DetectorWeights | None = None, *, device: str = "cpu", min_score: float = 0.5) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score {min_score}: a number from 0 to 1 needed")
        model = model or load_model(NUCLEUS_DETECTOR)
        net = NucleusNet(model.net.head.out_channels - 1, width=model.net.from16.out_channels)
        net.load_state_dict(model.net.state_dict())  # a copy: what makes it fast changes it
        self.device, self.min_score = device, min_score
        self._network = DetectorNetwork(net, device=device)
        self._calibration = model.calibration
        self._min_distance_um = model.min_distance_um

    @classmethod
    def from_file(cls, weights: Path, *, device: str = "cpu", min_score: float = 0.5) -> "LearnedDetector":
        """The detector of a file that `muse train-detector` wrote.

        Raises:
            ConfigError: the file is missing or is not a detector's weights, or min_score is not in 0..1.
        """
        return cls(load_model(weights), device=device, min_score=min_score)

    def __call__(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Find nuclei.

        Args:
            rgb: uint8 (H, W, 3).
            mpp: µm/px of `rgb`, both axes.

        Returns:
            (N, 3) float32: x, y in px of `rgb`, score 0..1; the surest first.

        Raises:
            DatasetError: not an RGB uint8 image.
            MppError: mpp is not a number from 0.02 to 1 µm/px.
        """
        points = self.heat_peaks(rgb, mpp)
        points[:, 2] = self._calibration.score(points[:, 2])
        return points[points[:, 2] >= self.min_score]

    def heat_peaks(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """As a call, but with the network's heat instead of the score, and every top: what calibration starts from."""
        _check(rgb, mpp)
        scale = network_scale(mpp)
        image = scaled_image(rgb, scale)
        min_distance_px = self._min_distance_um / mpp * scale
        points = tops_of_heat(self.heat(image), image, min_distance_px=min_distance_px)
        points[:, :2] /= scale
        height, width = rgb.shape[:2]
        inside = (points[:, 0] < width) & (points[:, 1] < height)  # not what was mirrored at the rim
        return np.asarray(points[inside], np.float32)

    def heat(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The heat map of an image at 0.5 µm/px: uint8 (H, W, 3) to float32 (ceil(H / 2), ceil(W / 2)), 0..1."""
        height, width = rgb.shape[:2]
        heat = np.empty((-(-height // 2), -(-width // 2)), np.float32)
        margin = int(self.margin_um / NETWORK_MPP)
        tall, wide = _even_side(height), _even_side(width)
        for y in range(0, height, tall):
            for x in range(0, width, wide):
                left, top = max(0, x - margin), max(0, y - margin)
                found = self._tile_heat(rgb[top : y + tall + margin, left : x + wide + margin])
                own = heat[y // 2 : (y + tall) // 2, x // 2 : (x + wide) // 2]
                row, column = (y - top) // 2, (x - left) // 2
                own[:] = found[row : row + own.shape[0], column : column + own.shape[1]]
        return heat

    def _tile_heat(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(np.ascontiguousarray(mirrored(rgb[np.newaxis])))
        with torch_threads(1) if self.device == "cpu" else nullcontext():
            return np.asarray(self._network.maps(images)[0, 0])


def network_scale(mpp: float) -> float:
    """How many px the network sees for one px of an image: mpp / 0.5, or the nearest sixth where that is close.

    Sixths let tiles that start at multiples of 96 px share one grid of 16 px, and of 0.2465 µm/px as of 0.25 two by two
    px make one exactly: what a px becomes does not depend on where its tile starts.
    """
    scale = mpp / NETWORK_MPP
    sixths = max(1, round(6 * scale)) / 6
    return sixths if abs(scale / sixths - 1) <= _SCALE_TOLERANCE else scale


def _check(rgb: NDArray[np.uint8], mpp: float) -> None:
    shape, dtype = np.shape(rgb), getattr(rgb, "dtype", type(rgb).__name__)
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8 or 0 in shape:
        raise DatasetError(f"image of shape {shape} and type {dtype}; RGB needed, uint8 (height, width, 3), not empty")
    finest, coarsest = NUCLEI_MPP
    if not finest <= mpp <= coarsest:  # false for NaN too
        reason = "mpp_too_coarse" if mpp > coarsest else "mpp_missing"
        raise MppError(
            f"image at {mpp} µm/px: {finest} to {coarsest} needed; read it finer, give its mpp, or use the "
            "classical detector",
            reason=reason,
        )


def _even_side(length_px: int) -> int:
    """The side of tiles of one size, on the network's grid, that cover a length with as few as `_TILE_PX` allows."""
    count = math.ceil(length_px / _TILE_PX)
    return math.ceil(length_px / count / STRIDE) * STRIDE
