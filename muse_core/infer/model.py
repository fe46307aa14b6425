"""Models that find and classify nuclei in tiles, by the format of their weights: one interface for slide inference.

model = load_nucleus_model(None, device="cpu")
found = model.find(images)  # (B, H, W, 3) uint8 at model.mpp -> a NucleiFound an image
"""

from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from muse_core.detector.learned import MIDDLE_SIGMA_PX, NETWORK_MPP, keep_freed_memory, load_model, on_ink
from muse_core.errors import ConfigError
from muse_core.machine.device import best_dtype
from muse_core.models.detector import OUTPUT_STRIDE, STRIDE
from muse_core.models.folding import made_to_run
from muse_core.models.heat import find_peaks
from muse_core.models.nucleus_model import NucleiFound as NucleiFound
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR
from muse_core.ndc.model import FORMAT as NDC_FORMAT
from muse_core.ndc.model import NdcModel

_KEEP_HEAT = 0.05  # tops below are noise whatever the calibration
_ID_DIGITS = 12
# With so much around them a grid shifted by odd amounts changes 0.04 % of nuclei; with 64 µm 0.01 %, with 32 0.09 %.
DETECTOR_MARGIN_UM = 48.0

Images = NDArray[np.uint8] | Tensor


class NucleusModel(Protocol):
    """Finds nuclei in images at its own µm/px, and says of which class each may be.

    Attributes:
        class_names: of the columns of `NucleiFound.probabilities`.
        mpp: µm/px that its images have.
        margin_um: surroundings that a nucleus needs to come out the same in every tile.
        grid_um: tiles start at multiples of this on the slide, for the same reason.
        model_id: a hash of the weights.
        takes_tensors: whether images may be tensors on its device, so that tiles decoded on a GPU stay there.
    """

    class_names: tuple[str, ...]
    mpp: float
    margin_um: float
    grid_um: float
    model_id: str
    takes_tensors: bool

    def find(self, images: Images) -> list[NucleiFound]:
        """The nuclei of each image.

        Args:
            images: (B, H, W, 3) uint8 RGB at `mpp`.

        Returns:
            One a image; x, y in px of it.
        """
        ...


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
        if self._device.type == "cpu":
            keep_freed_memory()
        self._dtype = best_dtype(self._device)
        self._net = made_to_run(model.net, device=self._device, dtype=self._dtype)
        self._calibration = model.calibration
        self._min_score = min_score
        self._min_distance_px = model.min_distance_um / NETWORK_MPP

    def find(self, images: Images) -> list[NucleiFound]:
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
    kept = (found.xy < (width, height)).all(axis=1)
    return NucleiFound(found.xy[kept], found.score[kept], found.probabilities[kept])


def load_nucleus_model(
    path: Path | None, *, device: str, min_score: float = 0.5, embeddings: bool = False
) -> NucleusModel:
    """The model of a weights file, by the format that its metadata names.

    Args:
        path: a checkpoint of `muse finetune` or weights of `muse train-detector`; None for what ships.
        device: where the network runs: cpu, cuda or cuda:N.
        min_score: nuclei below are left out.
        embeddings: whether nuclei come with their features; weights of a detector have none.

    Raises:
        ConfigError: no such file, no model's, or one without the features asked for.
    """
    path = path or shipped_weights()
    form = _format_of(path)
    if form == NDC_FORMAT:
        return NdcModel(path, device=device, min_score=min_score, embeddings=embeddings)
    if form.startswith("muse-nucleus-detector"):
        if embeddings:
            raise ConfigError(f"checkpoint {path}: a detector has no embeddings; give a checkpoint of muse finetune")
        return DetectorModel(path, device=device, min_score=min_score)
    raise ConfigError(
        f"checkpoint {path}: format {form!r} found; weights of muse train-detector or muse finetune needed"
    )


def shipped_weights() -> Path:
    """The weights that come with the package: those that classify best."""
    return MUSE_NANO_NDC if MUSE_NANO_NDC.exists() else NUCLEUS_DETECTOR


def hash_of(path: Path) -> str:
    """Twelve hex digits that change with the weights.

    Raises:
        ConfigError: the file cannot be read.
    """
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigError(
            f"checkpoint {path}: cannot be read ({error.strerror}); give a file of muse finetune"
        ) from None
    return digest.hexdigest()[:_ID_DIGITS]


def _format_of(path: Path) -> str:
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"checkpoint {path}: cannot be read ({error}); give a .safetensors file of muse") from None
