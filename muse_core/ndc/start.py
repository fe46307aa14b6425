"""Where fine-tuning starts: nothing, ImageNet, a MUSE backbone, the detector's encoder, or an NDC checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from muse_core.detector.weights_file import FORMAT as DETECTOR_FORMAT
from muse_core.detector.weights_file import load_model
from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings, MuseBackbone, build_backbone
from muse_core.models.backbone_file import backbone_of, read_backbone_file
from muse_core.models.imagenet import IMAGENET_MEAN, IMAGENET_STD
from muse_core.models.ndc import SUBPIXELS, NdcNet
from muse_core.models.shipped import MUSE_NANO, MUSE_NANO_NDC
from muse_core.models.tensor_file import format_of, hash_of
from muse_core.ndc.checkpoint import NdcCheckpoint, load_checkpoint
from muse_core.ndc.head import FORMAT as NDC_FORMAT
from muse_core.ndc.rates import rates_for
from muse_core.ndc.settings import ModelSettings

logger = logging.getLogger(__name__)

_SHIPPED = {path.stem: path for path in (MUSE_NANO_NDC, MUSE_NANO)}
_WITHOUT_FILE = ("none", "imagenet")
_DETECTOR_SCALE, _DETECTOR_SHIFT = 128.0, 127.0  # it takes (x - 127) / 128 of 0..255
_MAP_STRIDE = 4  # px of the image a pixel of the map that the heads take


@dataclass(frozen=True)
class Start:
    """A network to train, how its backbone is built, and its heads."""

    net: NdcNet
    backbone: BackboneSettings
    heads: ModelSettings


def start_from(
    init: str,
    class_names: tuple[str, ...],
    settings: ModelSettings,
    *,
    drop_path: float | None = None,
    own_geometry: bool = False,
) -> Start:
    """The network that a run begins with.

    Args:
        init: `none`, `imagenet`, `muse-nano` or `muse-nano-ndc` for weights that ship, or a file: a backbone of
            `muse pretrain` or the released MUSE weights, a checkpoint of `muse finetune` (its heads are kept where the
            classes are the same), or weights of `muse train-detector` (its encoder, up to stride 16).
        class_names: of the data.
        settings: of the heads; those of an NDC checkpoint win.
        drop_path: stochastic depth of the encoder of a backbone or an NDC checkpoint; None for what `ndc.rates` says of
            its kind.
        own_geometry: whether a backbone that was trained with corners aligned, as the released ones, goes on so.
            Proposals can be read off its maps; the dense head needs maps that lie exactly over the image.

    Raises:
        ConfigError: no such file, none of these, a backbone without a decoder, or a checkpoint read by proposals for a
            dense head.
    """
    if init in _WITHOUT_FILE:
        backbone = BackboneSettings(imagenet=init == "imagenet")
        return _around(build_backbone(backbone), backbone, class_names, settings)
    path = _path_of(init)
    form = _format_of(path)
    if form == NDC_FORMAT:
        return _from_ndc(path, class_names, settings, drop_path=drop_path, dense=not own_geometry)
    if form == DETECTOR_FORMAT:
        backbone = BackboneSettings(imagenet=True)
        net = build_backbone(backbone)
        _take_detector_encoder(net, path)
        return _around(net, backbone, class_names, settings)
    return _from_backbone(path, class_names, settings, drop_path=drop_path, own_geometry=own_geometry)


def start_id(init: str) -> str:
    """What tells one start from another: `none` or `imagenet` as it is, of a file twelve hex digits of its content.

    Raises:
        ConfigError: no such file, or one that cannot be read.
    """
    if init in _WITHOUT_FILE:
        return init
    return hash_of(_path_of(init))


def _path_of(init: str) -> Path:
    path = _SHIPPED.get(init, Path(init))
    if not path.is_file():
        raise ConfigError(f"--init {init}: no such file; give a checkpoint, imagenet or none")
    return path


def _from_backbone(
    path: Path,
    class_names: tuple[str, ...],
    settings: ModelSettings,
    *,
    drop_path: float | None,
    own_geometry: bool,
) -> Start:
    found = read_backbone_file(path)
    geometry = found.settings.geometry
    if geometry != "exact" and not own_geometry:
        text = (
            "%s: trained with the corners of maps and images aligned; here its maps are taken to lie exactly over the "
            "image, as the dense head reads them. --recipe paper, or loss.dense=0, keeps the geometry of the weights"
        )
        logger.warning(text, path.name)
        geometry = "exact"
    built = found.settings.model_copy(update={"imagenet": False, "geometry": geometry, "drop_path": 0.0})
    share = rates_for(built.preset).drop_path if drop_path is None else drop_path
    backbone = backbone_of(replace(found, settings=built.model_copy(update={"drop_path": share})))
    if backbone.output_stride != _MAP_STRIDE:
        raise ConfigError(
            f"--init {path}: a backbone without decoder, whose map has a stride of {backbone.output_stride} px; "
            f"{_MAP_STRIDE} px needed, give one that was pretrained with backbone.decoder=true"
        )
    return _around(backbone, built, class_names, settings)


def _around(
    backbone: MuseBackbone, built: BackboneSettings, class_names: tuple[str, ...], settings: ModelSettings
) -> Start:
    net = NdcNet(
        backbone,
        len(class_names),
        spacing_px=settings.spacing_px,
        hidden=settings.hidden,
        kernel=settings.kernel,
        dropout=settings.dropout,
        dense_hidden=settings.dense_hidden,
    )
    return Start(net, built, settings)


def _from_ndc(
    path: Path, class_names: tuple[str, ...], settings: ModelSettings, *, drop_path: float | None, dense: bool
) -> Start:
    """Backbone and heads of a checkpoint; classes go on by their names, new ones begin as the mean of the known."""
    checkpoint = load_checkpoint(path)
    head = checkpoint.head
    if dense and (head.readout == "proposals" or checkpoint.backbone.geometry != "exact"):
        raise ConfigError(
            f"--init {path}: made to be read by proposals, its dense head was never trained; give --recipe paper, or "
            "loss.dense=0"
        )
    shape = {"spacing_px", "hidden", "kernel", "dense_hidden"}
    kept = settings.model_copy(update={name: getattr(head, name) for name in shape})
    backbone = _dropping(checkpoint, drop_path)
    start = _around(backbone, checkpoint.backbone, class_names, kept)
    start.net.h_reg.load_state_dict(checkpoint.net.h_reg.state_dict())
    places = [head.class_names.index(name) if name in head.class_names else None for name in class_names]
    _take_dense(start.net, checkpoint.net, places)
    own, theirs = start.net.h_type, checkpoint.net.h_type
    for mine, known in zip(list(own)[:-1], list(theirs)[:-1], strict=True):
        mine.load_state_dict(known.state_dict())
    _take_last(own[-1], theirs[-1], places)
    return start


def _dropping(checkpoint: NdcCheckpoint, drop_path: float | None) -> MuseBackbone:
    """A checkpoint's backbone, which drops paths while it learns."""
    share = rates_for(checkpoint.backbone.preset).drop_path if drop_path is None else drop_path
    known: MuseBackbone = checkpoint.net.backbone  # type: ignore[assignment]
    if share == checkpoint.backbone.drop_path:
        return known
    backbone = build_backbone(checkpoint.backbone.model_copy(update={"imagenet": False, "drop_path": share}))
    backbone.load_state_dict(known.state_dict())
    return backbone


def _take_dense(net: NdcNet, known: NdcNet, places: Sequence[int | None]) -> None:
    for mine, theirs in zip(list(net.h_dense)[:-2], list(known.h_dense)[:-2], strict=True):
        mine.load_state_dict(theirs.state_dict())
    _take_last(net.h_dense[-2], known.h_dense[-2], places, rows=SUBPIXELS)


@torch.no_grad()
def _take_last(layer: nn.Module, known: nn.Module, places: Sequence[int | None], *, rows: int = 1) -> None:
    """Its last output as it was; each class as the one in its place, or the mean: a nucleus stays known.

    Args:
        layer: outputs of `rows` channels each, one a class and one more.
        known: likewise, of other classes.
        places: of each class among the known ones; None of a new one.
        rows: channels an output.
    """
    for name in ("weight", "bias"):
        mine, theirs = (getattr(one, name).unflatten(0, (-1, rows)) for one in (layer, known))  # (C + 1, rows, ...)
        for index, place in enumerate(places):
            mine[index] = theirs[:-1].mean(0) if place is None else theirs[place]
        mine[-1] = theirs[-1]


def _take_detector_encoder(backbone: MuseBackbone, path: Path) -> None:
    """The detector's encoder is the first stages of nano's, tensor by tensor in the same order."""
    theirs = load_model(path).net.encoder.state_dict()
    encoder = backbone.encoder.encoder
    own = encoder.state_dict()
    for name, tensor in zip(own, theirs.values(), strict=False):  # nano goes on to stride 32
        if own[name].shape != tensor.shape:
            raise ConfigError(f"--init {path}: {name} is {tuple(tensor.shape)}, {tuple(own[name].shape)} needed")
        own[name] = tensor
    # (255 (z std + mean) - 127) / 128 = scale z + shift, of the z that nano takes
    scale = torch.tensor(IMAGENET_STD) * 255 / _DETECTOR_SCALE
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - _DETECTOR_SHIFT) / _DETECTOR_SCALE
    stem = own["conv_stem.weight"]  # (32, 3, 3, 3)
    own["bn1.running_mean"] = own["bn1.running_mean"] - (stem.sum((2, 3)) @ shift)
    own["conv_stem.weight"] = stem * scale.view(1, 3, 1, 1)
    encoder.load_state_dict(own)


def _format_of(path: Path) -> str:
    """The format word in a safetensors file's metadata; empty for other files, which may be released weights."""
    try:
        return format_of(path)
    except ConfigError:
        return ""
