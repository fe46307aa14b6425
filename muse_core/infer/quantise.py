"""A checkpoint of `muse finetune` made into weights in int8 for OpenVINO, and how far their answers agree.

Each layer's range is taken from what it gives on images; weights keep to seven bits, so that sums of products cannot
overflow on processors that add them in sixteen. What is left in float may differ in its last digit between kinds of
processors, never between runs, threads or workers on one.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor, nn

from muse_core.errors import ConfigError, DatasetError
from muse_core.models.ndc import NdcNet
from muse_core.models.nucleus_model import NucleiFound, NucleusModel
from muse_core.models.quantised import CONSTANTS, GRAPH, quantised_path, read_quantised
from muse_core.models.quantised import FORMAT as QUANTISED_FORMAT
from muse_core.models.tensor_file import save_tensors, sha256_of
from muse_core.ndc.checkpoint import load_checkpoint
from muse_core.ndc.head import FORMAT as NDC_FORMAT
from muse_core.ndc.head import grid_px
from muse_core.ndc.model import NdcModel
from muse_core.ndc.quantised import QuantisedNdcModel

if TYPE_CHECKING:
    import openvino

SAME_UM = 1.0  # a nucleus that both find lies no farther apart
_TRACED_PX = 256
_MOST_PX = 512  # side of what ranges are taken from: memory grows with it, and nothing is gained
_COMPARED = 12  # images

Rgb = NDArray[np.uint8]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantiseResult:
    """What came of it.

    Attributes:
        weights: the file.
        n_images: that ranges were taken from.
        agreement: F1 of what the quantised network finds on other images, with what the checkpoint finds for truth.
        same_class: share of the nuclei found by both that both name alike.
        seconds: it took.
    """

    weights: Path
    n_images: int
    agreement: float
    same_class: float
    seconds: float


class _DenseAnswer(nn.Module):
    """What of an NDC network heat is read from: (B, H, W, 3) uint8 to (B, C + 1, H / 2, W / 2) logits."""

    def __init__(self, net: NdcNet) -> None:
        super().__init__()
        self.backbone, self.h_dense = net.backbone, net.h_dense

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        rgb = images.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
        feature_map = self.backbone(self.backbone.standardised(rgb)).map
        logits: Tensor = self.h_dense(feature_map)
        return logits


def quantise(checkpoint: Path, images: Sequence[Rgb], *, out: Path | None = None) -> QuantiseResult:
    """Write the quantised weights of a checkpoint, and compare what both find.

    Args:
        checkpoint: of `muse finetune`, read by its heat.
        images: uint8 (H, W, 3) at 0.5 µm/px, of the kinds of tissue that it will see; three quarters of them give the
            ranges of the layers, the others are compared on.
        out: the file; None for beside the checkpoint, where `muse infer` looks for it.

    Raises:
        ConfigError: the checkpoint is none or is read by proposals, or NNCF is not installed.
        DatasetError: fewer than four images, or images too small.
        OutputError: the file cannot be written.
    """
    begun = time.monotonic()
    stored = load_checkpoint(checkpoint)
    if stored.head.readout != "heat":
        raise ConfigError(f"checkpoint {checkpoint}: is read by {stored.head.readout}; only heat can be quantised")
    step = grid_px(stored.head, stored.net.backbone.side_multiple)
    if len(images) < 4:
        raise DatasetError(f"{len(images)} images to quantise with; at least 4 needed, 40 or more are better")
    held_out = list(images[::4])[:_COMPARED]
    ranged = [_cut(image, step) for number, image in enumerate(images) if number % 4]
    model = _quantised_graph(_converted(_DenseAnswer(stored.net).eval()), ranged)
    path = out or quantised_path(checkpoint)
    about = {"source_sha256": sha256_of(checkpoint), "kind": NDC_FORMAT, "head": json.dumps(asdict(stored.head))}
    if stored.familiar is not None:
        about["familiar"] = json.dumps(stored.familiar.as_json())
    _save(model, path, about)
    agreement, same_class = _compared(
        NdcModel(checkpoint, min_score=0.5), QuantisedNdcModel(read_quantised(path), threads=1, min_score=0.5), held_out
    )
    return QuantiseResult(path, len(ranged), agreement, same_class, time.monotonic() - begun)


def _cut(image: Rgb, step: int) -> Rgb:
    """The middle of an image, as large as `_MOST_PX` allows, its sides multiples of a step."""
    height, width = (min(side, _MOST_PX) // step * step for side in image.shape[:2])
    if not height or not width:
        raise DatasetError(f"image of {image.shape[1]} x {image.shape[0]} px; sides of {step} px or more needed")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _converted(net: nn.Module) -> "openvino.Model":
    """A network as OpenVINO's graph, for images of any size."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(1, _TRACED_PX, _TRACED_PX, 3, dtype=torch.uint8)
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), _quiet():
        decoder = TorchScriptPythonDecoder(net, example_input=(example,))  # the graph refers to it while it is made
        model = frontend.convert(frontend.load(decoder))
    model.reshape({0: [1, -1, -1, 3]})
    return model


def _quantised_graph(model: "openvino.Model", images: Sequence[Rgb]) -> "openvino.Model":
    try:
        import nncf
    except ImportError:
        raise ConfigError(
            "quantising needs the package nncf; install it with pip install 'muse-nuclei[quantise]'"
        ) from None
    nncf.set_log_level(logging.ERROR)
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset([image[np.newaxis] for image in images]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=_ends(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )


def _ends(model: "openvino.Model") -> list[str]:
    """The first and the last convolution, which stay in float: 2 % of the work, two thirds of what int8 costs of F1."""
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [names[0], names[-1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracing: sizes that it takes for constants are divided out again by the reshape."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _save(model: "openvino.Model", path: Path, about: dict[str, str]) -> None:
    from openvino import serialize

    with TemporaryDirectory() as folder:
        graph, constants = Path(folder, "graph.xml"), Path(folder, "graph.bin")
        serialize(model, graph, constants)
        tensors = {
            name: torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            for name, file in ((GRAPH, graph), (CONSTANTS, constants))
        }
    save_tensors(path, tensors, metadata={**about, "format": QUANTISED_FORMAT})


def _compared(exact: NucleusModel, quantised: NucleusModel, images: Sequence[Rgb]) -> tuple[float, float]:
    """F1 of what is found, and the share of it that is named alike."""
    pairs: list[tuple[NucleiFound, NucleiFound]] = [
        (exact.find(image[np.newaxis])[0], quantised.find(image[np.newaxis])[0]) for image in images
    ]
    both = [_same(one, other, SAME_UM / exact.mpp) for one, other in pairs]
    n_both = sum(len(first) for first, _ in both)
    n_all = sum(len(one.xy) + len(other.xy) for one, other in pairs)
    alike = sum(
        int((one.class_ids[first] == other.class_ids[second]).sum())
        for (one, other), (first, second) in zip(pairs, both, strict=True)
    )
    return (2 * n_both / n_all if n_all else 1.0), (alike / n_both if n_both else 1.0)


def _same(one: NucleiFound, other: NucleiFound, radius_px: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of nuclei that are each other's nearest, within a radius."""
    if not len(one.xy) or not len(other.xy):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    distance, nearest = KDTree(other.xy).query(one.xy)
    back: Any = KDTree(one.xy).query(other.xy)[1]
    first = np.flatnonzero((distance <= radius_px) & (back[nearest] == np.arange(len(one.xy))))
    return first, nearest[first]
