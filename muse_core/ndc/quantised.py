"""The NDC model in int8 on a CPU: the answers of `NdcModel` within 0.002 of F1, in about half its time.

    model = QuantisedNdcModel(read_quantised(path), threads=2, min_score=0.5)
    found = model.find(images)  # (B, H, W, 3) uint8 at 0.5 µm/px -> a NucleiFound an image

torch is not imported.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.ink import on_ink
from muse_core.errors import ConfigError, DatasetError
from muse_core.models.familiar import familiar_from
from muse_core.models.ndc_readout import nuclei_by_heat
from muse_core.models.nucleus_model import NETWORK_MPP, NucleiFound
from muse_core.models.quantised import Quantised, QuantisedNet
from muse_core.ndc.head import FORMAT, MARGIN_UM, chance_of, grid_px, head_from

if TYPE_CHECKING:
    from torch import Tensor


class QuantisedNdcModel:
    """Finds and names nuclei; a `NucleusModel`.

    Args:
        quantised: what `muse quantise` made of a checkpoint of `muse finetune` that is read by its heat.
        threads: cores that work on one image.
        min_score: nuclei below are left out.

    Raises:
        ConfigError: the weights are of another kind of network.
    """

    takes_tensors = False
    embedding_size = 0

    def __init__(self, quantised: Quantised, *, threads: int, min_score: float = 0.0) -> None:
        if quantised.kind != FORMAT:
            raise ConfigError(
                f"quantised weights {quantised.path}: of {quantised.kind!r}, {FORMAT!r} needed; use --set engine=torch"
            )
        self._net = QuantisedNet(quantised, threads=threads)
        self._head = head_from(json.loads(quantised.about["head"]))
        self._least_chance = chance_of(self._head.calibration, min_score)
        self._step_px = grid_px(self._head)
        self.mpp, self.margin_um, self.grid_um = NETWORK_MPP, MARGIN_UM, self._step_px * NETWORK_MPP
        self.class_names = self._head.class_names
        known = quantised.about.get("familiar")
        self.familiar = familiar_from(json.loads(known)) if known else None
        self.model_id = quantised.source_sha256[:12]

    def find(self, images: "NDArray[np.uint8] | Tensor") -> list[NucleiFound]:
        """Nuclei of each image, the surest first.

        Args:
            images: uint8 (B, H, W, 3) RGB at 0.5 µm/px.

        Raises:
            DatasetError: not such an array.
        """
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise DatasetError(
                f"images of shape {pixels.shape} and {pixels.dtype}; uint8 RGB (B, H, W, 3), not empty, needed"
            )
        return [self._found(image) for image in pixels]

    def _found(self, image: NDArray[np.uint8]) -> NucleiFound:
        height, width = image.shape[:2]
        step = self._step_px
        if height % step or width % step:
            # Mirrored, not blank: a border of one colour would be an edge, and edges look like nuclei's.
            image = np.pad(image, ((0, -height % step), (0, -width % step), (0, 0)), "symmetric")
        (dense,) = self._net(image[np.newaxis])
        found = nuclei_by_heat(
            dense,
            (width, height),
            min_distance_px=self._head.min_distance_um / self.mpp,
            least_chance=self._least_chance,
        )
        found = found.kept(~on_ink(image, found.xy))
        return replace(found, score=self._head.calibration.score(found.score))
