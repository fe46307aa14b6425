"""The NDC model in use: a checkpoint in, images at 0.5 µm/px in, classified nuclei out.

    from muse_core.ndc.model import NdcModel
    model = NdcModel(Path("runs/ndc/ndc.safetensors"), device="cpu")
    found = model.find(images)  # (B, H, W, 3) uint8 -> a NucleiFound an image

The network runs in bfloat16. Its answers depend a little on where its grid of 32 px lies, so tiles should start at
multiples of `grid_um` on the slide and bring `margin_um` around what they own.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.detector.ink import on_ink
from muse_core.errors import ConfigError, DatasetError
from muse_core.machine.device import best_dtype
from muse_core.models.feature_sampling import sample_at
from muse_core.models.folding import made_to_run
from muse_core.models.half_turn import by_half_a_turn, pads_after, turn_kernels
from muse_core.models.ndc_readout import nuclei_by_heat, nuclei_by_proposals
from muse_core.models.nucleus_model import NETWORK_MPP, NucleiFound
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.models.tensor_file import hash_of
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint
from muse_core.ndc.head import MARGIN_UM, chance_of, grid_px

_LEAST_CHANCE = 0.02  # nuclei below are none whatever the calibration


class NdcModel:
    """Finds and names nuclei; a `NucleusModel`.

    Args:
        weights: a file of `muse finetune`, or a network in memory, which is left as it is; None for the file that
            ships.
        device: where the network runs, such as cpu or cuda.
        min_score: nuclei below are left out; at 0.5 the mean class F1 on validation was best.
        embeddings: whether to return the features at nuclei, too.
        dtype: the network's; None for bfloat16, or float32 where the device only emulates that.

    Raises:
        ConfigError: the file is missing or no NDC checkpoint, or min_score is not in 0..1.
    """

    takes_tensors = True

    def __init__(
        self,
        weights: Path | NdcCheckpoint | None = None,
        *,
        device: str = "cpu",
        min_score: float = 0.0,
        embeddings: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score {min_score}: a number from 0 to 1 needed")
        self._device, self._min_score, self._embeddings = device, min_score, embeddings
        self._dtype = dtype or best_dtype(device)
        if isinstance(weights, NdcCheckpoint):
            checkpoint, self.model_id = _copied(weights), "memory"
        else:
            path = weights or MUSE_NANO_NDC
            checkpoint, self.model_id = load_checkpoint(path), hash_of(path)
        net = checkpoint.net
        self._turned = pads_after(net)
        if self._turned:
            turn_kernels(net.backbone)
            turn_kernels(net.h_dense)  # the other heads get the map upright
        self._net = made_to_run(net, device=self._device, dtype=self._dtype)
        self._head = checkpoint.head
        self.familiar = checkpoint.familiar
        self.mpp, self.margin_um = NETWORK_MPP, MARGIN_UM
        self._step_px = grid_px(checkpoint.head, checkpoint.net.backbone.side_multiple)
        self.class_names = checkpoint.head.class_names
        self.embedding_size = net.backbone.map_channels if self._embeddings else 0
        self.grid_um = self._step_px * self.mpp

    def find(self, images: NDArray[np.uint8] | Tensor) -> list[NucleiFound]:
        """Nuclei of each image, the surest first.

        Args:
            images: uint8 (B, H, W, 3) RGB at 0.5 µm/px, an array or a tensor on any device.

        Raises:
            DatasetError: not such an array.
        """
        least = chance_of(self._head.calibration, self._min_score)
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
        backbone = self._net.backbone
        upright = padded.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
        feature_map = backbone(backbone.standardised(self._facing(upright)).to(self._dtype)).map
        answers = self._read(feature_map, (padded.shape[2], padded.shape[1]), (width, height), least_chance)
        return [
            self._with_embedding(found.kept(~on_ink(pixels[index], found.xy)), feature_map, index, padded.shape)
            for index, found in enumerate(answers)
        ]

    def _read(
        self, feature_map: Tensor, padded_size: tuple[int, int], size: tuple[int, int], least_chance: float
    ) -> Iterator[NucleiFound]:
        """Nuclei of each image of a batch, by the head that the checkpoint is read by; the other one is spared."""
        options = {"min_distance_px": self._head.min_distance_um / self.mpp, "least_chance": least_chance}
        if self._head.readout == "heat":
            for dense in self._facing(self._net.h_dense(feature_map)).float().cpu().numpy():
                yield nuclei_by_heat(dense, size, **options)
            return
        proposals = self._net.proposals(self._facing(feature_map), padded_size)
        for xy, logits in zip(proposals.xy.cpu().numpy(), proposals.logits.cpu().numpy(), strict=True):
            yield nuclei_by_proposals(xy, logits, size, **options)

    def _facing(self, maps: Tensor) -> Tensor:
        """From the image's side to the network's, or back: by half a turn where the network is turned."""
        return by_half_a_turn(maps) if self._turned else maps

    def _with_embedding(self, found: NucleiFound, feature_map: Tensor, index: int, padded: torch.Size) -> NucleiFound:
        if not self._embeddings:
            return found
        points = torch.from_numpy(found.xy).to(feature_map.device)
        rows = torch.full((len(points),), index, dtype=torch.int64, device=points.device)
        features = sample_at(
            self._facing(feature_map),
            points,
            rows,
            side_px=(padded[2], padded[1]),
            mode=self._net.backbone.sampling,
        )
        return replace(found, embedding=features.float().cpu().numpy().astype(np.float16))

    def _calibrated(self, found: NucleiFound) -> NucleiFound:
        return replace(found, score=self._head.calibration.score(found.score))


def _copied(checkpoint: NdcCheckpoint) -> NdcCheckpoint:
    """What makes a network fast changes it."""
    net = build_net(checkpoint.backbone, checkpoint.head)
    net.load_state_dict(checkpoint.net.state_dict())
    return replace(checkpoint, net=net)


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
