"""The NDC model in use: a checkpoint in, images at 0.5 µm/px in, classified nuclei out.

    from muse_core.ndc_model import NdcModel
    model = NdcModel(Path("runs/ndc/ndc.safetensors"), device="cpu")
    found = model.find(images)  # (B, H, W, 3) uint8 -> a NucleiFound an image

The network runs in bfloat16. Its answers depend a little on where its grid of 32 px lies, so tiles should start at
multiples of `grid_um` on the slide and bring `margin_um` around what they own.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from muse_core.errors import ConfigError, DatasetError
from muse_core.files import whole_file
from muse_core.learned_detector import Calibration, keep_freed_memory
from muse_core.models.backbone import BackboneSettings, build_backbone, standardised
from muse_core.models.feature_sampling import sample_at
from muse_core.models.folding import fold_norms
from muse_core.models.ndc import NdcNet, Proposals
from muse_core.models.nuclei_found import NucleiFound
from muse_core.models.point_nms import surest_apart

FORMAT = "muse-ndc-2"
WEIGHTS = Path(__file__).parent / "weights" / "muse-nano-ndc.safetensors"

NETWORK_MPP = 0.5
MARGIN_UM = 64.0  # what lies farther away changes little

_COARSEST_STRIDE = 32  # of the backbone's levels
_COUNTER = "num_batches_tracked"  # of batch norms; of no use after training
_LEAST_CHANCE = 0.02  # nuclei below are none whatever the calibration
_LEAST_ODDS = -6.0  # of a proposal by itself; the dense head's opinion is asked of the others only
_CLIP = 1e-6


@dataclass(frozen=True)
class NdcHead:
    """What rebuilds an NDC network around its backbone, and how its answers are read.

    Attributes:
        class_names: what the columns of probabilities mean.
        spacing_px: of the proposals.
        hidden: width of the heads.
        kernel: of their first layer.
        dense_hidden: width of the dense head.
        min_distance_um: of two nuclei nearer than this the less sure one goes.
        dense_heat: weight of the dense head's logit of a nucleus, added to that of 1 - p(background).
        dense_class: weight of its logits of the classes, added to those of H_type.
        calibration: from the chance of both to the score.
    """

    class_names: tuple[str, ...]
    spacing_px: int = 4
    hidden: int = 128
    kernel: int = 1
    dense_hidden: int = 64
    min_distance_um: float = 3.0
    dense_heat: float = 1.0
    dense_class: float = 1.0
    calibration: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True)
class NdcCheckpoint:
    """A network, how its backbone is built, and how it is read."""

    net: NdcNet
    backbone: BackboneSettings
    head: NdcHead
    notes: dict[str, str]


class NdcModel:
    """Finds and names nuclei; a `NucleusModel`.

    Args:
        weights: a file of `muse finetune`; None for the one that ships.
        device: where the network runs, such as cpu or cuda.
        min_score: nuclei below are left out; at 0.5 the mean class F1 on validation was best.
        embeddings: whether to return the features at nuclei, too.
        dtype: the network's; float32 where the device only emulates bfloat16.

    Raises:
        ConfigError: the file is missing or no NDC checkpoint, or min_score is not in 0..1.
    """

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: str = "cpu",
        min_score: float = 0.0,
        embeddings: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score {min_score}: a number from 0 to 1 needed")
        path = weights or WEIGHTS
        self._device, self._dtype, self._min_score, self._embeddings = device, dtype, min_score, embeddings
        self._use(load_checkpoint(path))
        self.model_id = sha256(path.read_bytes()).hexdigest()[:12]

    @classmethod
    def of_checkpoint(cls, checkpoint: NdcCheckpoint) -> "NdcModel":
        """A model around a network in memory, as training needs; the network itself is left as it is."""
        model = cls.__new__(cls)
        copy = build_net(checkpoint.backbone, checkpoint.head)
        copy.load_state_dict(checkpoint.net.state_dict())
        model._device, model._dtype, model._min_score, model._embeddings = "cpu", torch.bfloat16, 0.0, False
        model._use(NdcCheckpoint(copy, checkpoint.backbone, checkpoint.head, {}))
        model.model_id = "memory"
        return model

    def _use(self, checkpoint: NdcCheckpoint) -> None:
        if self._device == "cpu":
            keep_freed_memory()
        net = fold_norms(checkpoint.net).requires_grad_(False)
        self._net = net.to(device=self._device, dtype=self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._head = checkpoint.head
        self.mpp, self.margin_um = NETWORK_MPP, MARGIN_UM
        self._step_px = math.lcm(_COARSEST_STRIDE, checkpoint.net.backbone.side_multiple, checkpoint.head.spacing_px)
        self.class_names = checkpoint.head.class_names
        self.grid_um = self._step_px * self.mpp

    def find(self, images: NDArray[np.uint8] | Tensor) -> list[NucleiFound]:
        """Nuclei of each image, the surest first.

        Args:
            images: uint8 (B, H, W, 3) RGB at 0.5 µm/px, an array or a tensor on any device.

        Raises:
            DatasetError: not such an array.
        """
        least = _chance_of(self._head.calibration, self._min_score)
        return [self._calibrated(found) for found in self.candidates(images, least_chance=least)]

    @torch.inference_mode()
    def candidates(
        self, images: NDArray[np.uint8] | Tensor, *, least_chance: float = _LEAST_CHANCE
    ) -> list[NucleiFound]:
        """As `find`, but with the chance of a nucleus for the score, and all above `least_chance`: for calibration."""
        pixels = torch.as_tensor(images)
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != torch.uint8 or 0 in pixels.shape:
            raise DatasetError(
                f"images of shape {tuple(pixels.shape)} and {pixels.dtype}; uint8 RGB (B, H, W, 3), not empty, needed"
            )
        height, width = pixels.shape[1:3]
        padded = _mirrored(pixels.to(self._device), self._step_px)
        batch = standardised(padded.permute(0, 3, 1, 2)).to(self._dtype)  # (B, H, W, 3) -> (B, 3, H, W)
        proposals, feature_map = self._net.with_map(batch)
        sides = (padded.shape[2], padded.shape[1])
        return [
            self._nuclei_of(proposals, feature_map, index, (width, height), sides, least_chance)
            for index in range(len(pixels))
        ]

    def _nuclei_of(
        self,
        proposals: Proposals,
        feature_map: Tensor,
        index: int,
        size: tuple[int, int],
        padded_size: tuple[int, int],
        least_chance: float,
    ) -> NucleiFound:
        logits, xy = proposals.logits[index].float(), proposals.xy[index].float()
        odds = torch.logsumexp(logits[:, :-1], 1) - logits[:, -1]  # logit of 1 - p(background)
        limit = torch.tensor(size, device=xy.device)
        kept = (odds >= _LEAST_ODDS) & (xy >= 0).all(1) & (xy < limit).all(1)
        xy, odds, class_logits = xy[kept], odds[kept], logits[kept, :-1]

        def at_nuclei(maps: Tensor, points: Tensor) -> Tensor:
            rows = torch.full((len(points),), index, dtype=torch.int64, device=points.device)
            return sample_at(maps, points, rows, side_px=padded_size)

        dense = at_nuclei(proposals.dense, xy).float()
        chance = torch.sigmoid(odds + self._head.dense_heat * dense[:, -1]).cpu().numpy()
        class_logits = class_logits + self._head.dense_class * dense[:, :-1]
        points = xy.cpu().numpy()
        likely = np.flatnonzero(chance >= least_chance)
        min_distance = self._head.min_distance_um / self.mpp
        rows = likely[surest_apart(points[likely], chance[likely], min_distance=min_distance)]
        embedding = at_nuclei(feature_map, xy[rows]).float().cpu().numpy() if self._embeddings else None
        return NucleiFound(
            points[rows],
            chance[rows],
            torch.softmax(class_logits[rows], 1).cpu().numpy(),
            None if embedding is None else embedding.astype(np.float16),
        )

    def _calibrated(self, found: NucleiFound) -> NucleiFound:
        score = self._head.calibration.score(found.score)
        return NucleiFound(found.xy, score, found.probabilities, found.embedding)


def _mirrored(images: Tensor, multiple: int) -> Tensor:
    """Images (B, H, W, 3) with both sides mirrored on to a multiple.

    Not blank: a border of one colour would be an edge, and edges look like nuclei's.
    """
    height, width = images.shape[1:3]
    if height % multiple == 0 and width % multiple == 0:
        return images
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(length), (0, -length % multiple), mode="symmetric")).to(images.device)
        for length in (height, width)
    )
    return images[:, rows][:, :, columns]


def _chance_of(calibration: Calibration, score: float) -> float:
    """The chance that is calibrated to a score; a hair less, so that rounding leaves none out."""
    score = min(max(score, _CLIP), 1 - _CLIP)
    at_half = calibration.heat_at_half
    margin = math.log(score / (1 - score)) / calibration.slope + math.log(at_half / (1 - at_half))
    return 1 / (1 + math.exp(-margin)) - _CLIP


def build_net(backbone: BackboneSettings, head: NdcHead, *, dropout: float = 0.0) -> NdcNet:
    """The network of these settings, its weights at random."""
    return NdcNet(
        build_backbone(backbone.model_copy(update={"imagenet": False})),
        len(head.class_names),
        spacing_px=head.spacing_px,
        hidden=head.hidden,
        kernel=head.kernel,
        dropout=dropout,
        dense_hidden=head.dense_hidden,
    )


def save_checkpoint(checkpoint: NdcCheckpoint, path: Path) -> None:
    """Write an NDC checkpoint: kernels in float16, norms and biases in float32, the rest in the file's metadata.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float16 if tensor.ndim > 1 else torch.float32).contiguous()
        for name, tensor in checkpoint.net.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    metadata = {
        "format": FORMAT,
        "backbone": checkpoint.backbone.model_dump_json(),
        "head": json.dumps(asdict(checkpoint.head)),
        "notes": json.dumps(checkpoint.notes),
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_checkpoint(path: Path) -> NdcCheckpoint:
    """Read what `save_checkpoint` wrote, in eval mode.

    Raises:
        ConfigError: no such file, damaged, or not an NDC checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"NDC checkpoint {path}: cannot be read ({error}); give a file of `muse finetune`") from None
    if about.get("format") != FORMAT:
        raise ConfigError(
            f"NDC checkpoint {path}: format {about.get('format')!r} found, {FORMAT!r} needed; give a file of "
            "`muse finetune`"
        )
    try:
        backbone = BackboneSettings.model_validate_json(about["backbone"])
        head = _head_from(json.loads(about["head"]))
        notes = json.loads(about.get("notes", "{}"))
    except (KeyError, TypeError, ValidationError, json.JSONDecodeError) as error:
        raise ConfigError(f"NDC checkpoint {path}: of another version: {error}") from None
    net = build_net(backbone, head)
    found = net.load_state_dict(tensors, strict=False)
    lacking = [name for name in found.missing_keys if not name.endswith(_COUNTER)]
    if lacking or found.unexpected_keys:
        raise ConfigError(f"NDC checkpoint {path}: tensors differ from this version's network: {lacking[:3]}")
    return NdcCheckpoint(net.eval(), backbone, head, notes)


def _head_from(values: dict[str, object]) -> NdcHead:
    calibration = values.pop("calibration")
    assert isinstance(calibration, dict)
    names = values.pop("class_names")
    return NdcHead(
        **values,  # type: ignore[arg-type]
        class_names=tuple(names),  # type: ignore[arg-type]
        calibration=Calibration(**calibration),
    )
