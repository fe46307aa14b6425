"""What turns tiles and nuclei into features: MUSE, any network of timm, or any callable, under one protocol.

a checkpoint              muse-nano.safetensors, or the authors' .pth
nano, nano-imagenet, ...  a MUSE backbone before pretraining: encoder at random or from ImageNet, decoder at random
timm:NAME                 an encoder alone, with timm's weights or those of a file; timm:NAME:random without any
package.module:function   called with uint8 images (B, H, W, 3) and a list of B arrays (n, 2) of x, y; returns
features (N, D), the nuclei of the first image first
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from muse_core.errors import ConfigError, DatasetError
from muse_core.models.backbone import (
    IMAGENET_INPUT,
    NETWORKS,
    BackboneSettings,
    InputScale,
    MuseBackbone,
    build_backbone,
    sample_at,
    standardised,
    timm_input,
)
from muse_core.models.backbone_file import backbone_of, read_backbone_file
from muse_core.models.encoder import ConvEncoder, Encoder, EncoderOptions, encoder_of
from muse_core.models.feature_sampling import SamplingMode
from muse_core.models.imagenet import load_imagenet_nano
from muse_core.models.shipped import MUSE_NANO
from muse_core.models.tensor_file import BROKEN_FILE

Images = NDArray[np.uint8]  # (B, H, W, 3) RGB
Points = Sequence[NDArray[np.float32]]  # an image each: (n, 2) x, y in px of it
NucleusEncoder = Callable[[Images, Points], Any]  # -> (N, D) features, as a tensor or an array

SEED = 2025  # Source: linear_knn_eval.py, https://github.com/alibaba-damo-academy/MUSE
_IMAGENET, _RANDOM = "-imagenet", ":random"


class MapEncoder(nn.Module):
    """Features read off the maps of a network at the nuclei, bilinearly, the maps' features side by side.

    Args:
        net: a MUSE backbone, whose map is read, or an encoder alone: the four stages of a convolutional network, or
            the last tokens of a transformer.
        mode: how maps are read, see `sample_at`; None for what the backbone wants, `exact` for an encoder.
        input_scale: what the weights take; None for what the backbone says, ImageNet's for an encoder.
    """

    def __init__(
        self,
        net: MuseBackbone | Encoder,
        *,
        mode: SamplingMode | None = None,
        input_scale: InputScale | None = None,
    ) -> None:
        super().__init__()
        self.input = input_scale or (net.input if isinstance(net, MuseBackbone) else IMAGENET_INPUT)
        self.net = net
        self.mode: SamplingMode = mode or (net.sampling if isinstance(net, MuseBackbone) else "exact")
        # With the centres of a map's pixels at s j + 1.5 rather than s (j + 0.5), see ConvEncoder.
        self.even = isinstance(net, ConvEncoder) and bool(net.padding) and self.mode == "exact"

    def forward(self, images: Tensor, xy: Tensor, image_index: Tensor) -> Tensor:
        """Standardised images (B, 3, H, W), xy (N, 2) and index (N,) of nuclei to features (N, D) float32."""
        images = _padded(images, self.net.side_multiple)
        side_px = (images.shape[-1], images.shape[-2])
        found = [self._read(level, xy, image_index, side_px) for level in self._maps(images)]
        return torch.cat(found, dim=1).float()

    def on_arrays(self, images: Images, xy: Points) -> Tensor:
        """The same of uint8 images and arrays of points: a `NucleusEncoder`."""
        device = next(self.parameters()).device
        features: Tensor = self(*(part.to(device) for part in as_tensors(images, xy, self.input)))
        return features

    def _maps(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.net, MuseBackbone):
            return [self.net(images).map]
        levels: list[Tensor] = self.net(images).levels
        return levels if isinstance(self.net, ConvEncoder) else levels[-1:]

    def _read(self, level: Tensor, xy: Tensor, image_index: Tensor, side_px: tuple[int, int]) -> Tensor:
        shift = (side_px[0] / level.shape[-1] - 3) / 2 if self.even else 0.0
        return sample_at(level, xy + shift, image_index, side_px=side_px, mode=self.mode)


def as_tensors(images: Images, xy: Points, scale: InputScale = IMAGENET_INPUT) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised images (B, 3, H, W) float32, xy (N, 2) float32 and image index (N,) int64, as `MapEncoder` takes."""
    batch = standardised(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2), scale)  # (B, H, W, 3)
    points = torch.from_numpy(np.concatenate(xy))
    counts = torch.tensor([len(points) for points in xy])
    return batch, points, torch.arange(len(counts)).repeat_interleave(counts)


def _padded(images: Tensor, multiple: int) -> Tensor:
    """Mirror the right and lower rim until the sides are multiples: 512 px are no multiple of a patch of 14."""
    height, width = images.shape[-2:]
    right, below = -width % multiple, -height % multiple
    return functional.pad(images, (0, right, 0, below), mode="reflect") if right or below else images


def load_encoder(
    checkpoint: Path | None = None,
    name: str | None = None,
    *,
    image_px: int = 224,
    device: str = "cpu",
    mode: SamplingMode | None = None,
    seed: int = SEED,
) -> NucleusEncoder | MapEncoder:
    """The encoder of a command line: a MUSE checkpoint, or a name with or without weights; MUSE nano where neither is.

    Args:
        checkpoint: a backbone file; with a name `timm:...`, that network's weights.
        name: see the module's text.
        image_px: side of the tiles.
        device: where it runs; a callable looks after itself.
        mode: how maps are read; None for what the model wants. With `official` a released transformer's positions are
            resampled even where their number stays, as the published scripts do: that is what their scores are of.
        seed: of what starts at random.

    Raises:
        ConfigError: nothing of that name, or a file that is not what it should be.
    """
    if name is not None:
        encoder = encoder_named(name, weights=checkpoint, image_px=image_px, seed=seed, mode=mode)
    elif checkpoint is None and not MUSE_NANO.exists():
        raise ConfigError("no MUSE weights ship with this installation; give --checkpoint CKPT or --encoder NAME")
    else:
        found = read_backbone_file(checkpoint or MUSE_NANO)
        legacy = mode == "official" and found.settings.geometry == "official"
        encoder = MapEncoder(backbone_of(found, image_px=image_px, legacy_positions=legacy), mode=mode)
    return encoder.to(device).eval() if isinstance(encoder, MapEncoder) else encoder


def encoder_named(
    name: str,
    *,
    weights: Path | None = None,
    image_px: int = 224,
    seed: int = SEED,
    mode: SamplingMode | None = None,
) -> NucleusEncoder | MapEncoder:
    """The encoder of a name, in eval mode.

    Args:
        name: see the module's text.
        weights: a state dict for `timm:NAME`, safetensors or a pickle of tensors alone.
        image_px: side of the tiles, which a transformer's positions are made for.
        seed: of what starts at random.
        mode: how maps are read; None for what the model wants.

    Raises:
        ConfigError: no such name, or weights that cannot be had or don't fit.
    """
    torch.manual_seed(seed)
    if name.startswith("timm:"):
        encoder = _timm_encoder(name, weights, image_px, exact=mode != "official")
        random = name.endswith(_RANDOM) or name.removeprefix("timm:") == NETWORKS["nano"]
        return MapEncoder(encoder, mode=mode, input_scale=None if random else timm_input(encoder)).eval()
    if ":" in name:
        return _callable_named(name)
    if weights is not None:
        raise ConfigError(f"--encoder {name} takes no --checkpoint; leave one of them out")
    settings = BackboneSettings(
        preset=name.removesuffix(_IMAGENET), imagenet=name.endswith(_IMAGENET), image_px=image_px
    )
    if settings.preset not in NETWORKS:
        known = ", ".join(f"{preset}[{_IMAGENET}]" for preset in NETWORKS)
        raise ConfigError(f"--encoder {name}: needs {known}, timm:NAME[{_RANDOM}] or package.module:function")
    return MapEncoder(build_backbone(settings), mode=mode).eval()


def _timm_encoder(name: str, weights: Path | None, image_px: int, *, exact: bool) -> Encoder:
    network = name.removeprefix("timm:").removesuffix(_RANDOM)
    packaged = network == NETWORKS["nano"]  # its ImageNet weights come with a package rather than by download
    wanted = weights is None and not name.endswith(_RANDOM)
    # Networks from TensorFlow pad on one side, and have learned kernels that lean the other way: they stay as they are.
    centred = exact and not network.startswith("tf_")
    options = EncoderOptions(image_px=image_px, centred=centred, pretrained=wanted and not packaged)
    encoder = encoder_of(network, options)
    if wanted and packaged:
        load_imagenet_nano(encoder.encoder)
    if weights is not None:
        _load_state(encoder.encoder, weights)
    return encoder


def _load_state(net: nn.Module, path: Path) -> None:
    """Load a state dict of timm's names, whole; a classifier in it is left out.

    Raises:
        ConfigError: not such a file, or of another network.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, *BROKEN_FILE) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{path}: no weights can be read ({reason}); safetensors or a .pth of tensors needed"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigError(
            f"{path}: no state dict but {type(state).__name__}; tensors by name needed, as timm's save them"
        )
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "fc.", "classifier."))}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{path}: weights of another network: {str(error)[:300]}") from None


def _callable_named(name: str) -> NucleusEncoder:
    module, _, function = name.partition(":")
    try:
        found: NucleusEncoder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--encoder {name}: cannot be imported ({error}); package.module:function needed") from None
    if not callable(found):
        raise ConfigError(f"--encoder {name}: not a callable but {type(found).__name__}")
    return found


def checked_features(found: object, n_nuclei: int, name: str) -> Tensor:
    """What an encoder returned, as (N, D) float32 on the CPU.

    Raises:
        DatasetError: another shape, or numbers that are not finite.
    """
    features = torch.as_tensor(found).detach().to("cpu", torch.float32)
    if features.ndim != 2 or len(features) != n_nuclei:
        raise DatasetError(f"{name}: returned features of shape {tuple(features.shape)}; ({n_nuclei}, D) needed")
    if not bool(torch.isfinite(features).all()):
        raise DatasetError(f"{name}: returned features that are not all finite")
    return features
