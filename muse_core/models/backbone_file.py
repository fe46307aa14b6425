"""Backbones in files: ours as safetensors that rebuild themselves, and the released checkpoints of MUSE.

save_backbone(backbone, settings, Path("muse.safetensors"), notes={"trained": "10 epochs"})
backbone = load_backbone(Path("muse.safetensors"))
"""

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings, InputScale, MuseBackbone, build_backbone, timm_input
from muse_core.models.encoder import VitEncoder
from muse_core.models.position import positions_for
from muse_core.models.tensor_file import BROKEN_FILE, format_of, read_tensors, save_tensors

FORMAT = "muse-backbone-1"

_POSITIONS = "encoder.encoder.pos_embed"
_RELEASED = "module.backbone."  # of keys under `teacher`: DINO's wrappers
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class BackboneFile:
    """What a file says of a backbone, read without building it.

    Attributes:
        path: the file.
        settings: how it is built.
        notes: what whoever wrote it said of it.
        tensors: its state, float32.
    """

    path: Path
    settings: BackboneSettings
    notes: dict[str, str]
    tensors: dict[str, Tensor]


def save_backbone(
    backbone: MuseBackbone, settings: BackboneSettings, path: Path, *, notes: dict[str, str], half: bool = False
) -> None:
    """Write weights and all that is needed to rebuild the backbone.

    Args:
        backbone: what to write.
        settings: how it was built.
        path: the file.
        notes: what a reader may want to know of it.
        half: kernels in float16, which halves the file; norms and biases stay float32.

    Raises:
        OutputError: the file cannot be written.
    """
    kernels = torch.float16 if half else torch.float32
    tensors = {
        name: tensor.detach().to("cpu", kernels if tensor.ndim > 1 else torch.float32).contiguous()
        for name, tensor in backbone.state_dict().items()
        if not name.endswith(_COUNTER)
    }
    said = settings.model_copy(update={"input_mean": backbone.input.mean, "input_std": backbone.input.std})
    metadata = {"format": FORMAT, "settings": said.model_dump_json(), "notes": json.dumps(notes)}
    save_tensors(path, tensors, metadata=metadata)


def load_backbone(path: str | Path, *, image_px: int | None = None, legacy_positions: bool = False) -> MuseBackbone:
    """Read what `save_backbone` wrote, or a released MUSE checkpoint (.pth), in eval mode.

    Args:
        path: the file.
        image_px: bring a ViT's learned positions to images of this side; None leaves them. A backbone takes images of
            any size either way, only that others than its own have them interpolated each time.
        legacy_positions: resample them even where the size stays, as the released loader does by mistake: needed to
            meet the published scores of released weights to the last digit.

    Raises:
        ConfigError: no such file, damaged, of another model, or holding more than tensors.
    """
    return backbone_of(read_backbone_file(Path(path)), image_px=image_px, legacy_positions=legacy_positions)


def backbone_of(found: BackboneFile, *, image_px: int | None = None, legacy_positions: bool = False) -> MuseBackbone:
    """The backbone of a file that was read; arguments as in `load_backbone`.

    Raises:
        ConfigError: its tensors are not those of its preset.
    """
    backbone = build_backbone(found.settings.model_copy(update={"init": "", "imagenet": False}))
    own = backbone.state_dict()
    counters = {name for name in own if name.endswith(_COUNTER)}  # of batch norms; ours don't store them
    wrong = [
        name for name in sorted((own.keys() | found.tensors.keys()) - counters) if not _fits(name, own, found.tensors)
    ]
    if wrong:
        raise ConfigError(
            f"backbone {found.path}: {len(wrong)} tensors are not those of preset {found.settings.preset!r}, the first "
            f"is {wrong[0]}; give a backbone of `muse pretrain` or a released MUSE checkpoint"
        )
    backbone.load_state_dict({**own, **found.tensors})
    encoder = backbone.encoder
    if isinstance(encoder, VitEncoder) and (image_px or legacy_positions):
        encoder.resample_positions(image_px or found.settings.image_px, always=legacy_positions)
    return backbone.eval()


def start_from(backbone: MuseBackbone, settings: BackboneSettings) -> None:
    """Give a new backbone the weights of the file that `settings.init` names; a ViT's positions fit its size.

    With the weights comes what they take (`MuseBackbone.input`). A file of timm's own weights fills the encoder alone.

    Raises:
        ConfigError: the file is no backbone's, of another preset, geometry or decoder, or takes other inputs than the
            settings say.
    """
    timm_weights = read_timm_weights(Path(settings.init))
    if timm_weights is not None:
        _fill_encoder(backbone, timm_weights, settings)
        return
    found = read_backbone_file(Path(settings.init))
    for name in ("preset", "geometry", "decoder", "hybrid"):
        here, there = getattr(settings, name), getattr(found.settings, name)
        if here != there:
            raise ConfigError(
                f"backbone.init {settings.init}: backbone.{name} is {there} there and {here} here; set it to {there}"
            )
    other = backbone_of(found, image_px=settings.image_px)
    for name, theirs in (("input_mean", other.input.mean), ("input_std", other.input.std)):
        here = getattr(settings, name)
        if here is not None and tuple(here) != tuple(theirs):
            raise ConfigError(
                f"backbone.init {settings.init}: its weights take {name} {list(theirs)}, backbone.{name} is "
                f"{list(here)}; leave it out"
            )
    backbone.input = other.input
    backbone.load_state_dict(other.state_dict())


def read_timm_weights(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a safetensors file without a format word: timm's own weights; None of any other file."""
    try:
        form = format_of(path)
        if form not in ("", "pt"):
            return None
        file = read_tensors(path, form, what="weights", hint="give weights of timm")
    except ConfigError:
        return None
    return {name: tensor.float() for name, tensor in file.tensors.items()}


def _fill_encoder(backbone: MuseBackbone, tensors: dict[str, Tensor], settings: BackboneSettings) -> None:
    """Timm's weights into the encoder, positions brought to its size; a classifier's are left out."""
    encoder = backbone.encoder.encoder
    own = encoder.state_dict()
    known = {name: tensor for name, tensor in tensors.items() if name in own}
    if isinstance(backbone.encoder, VitEncoder) and "pos_embed" in known:
        side = settings.image_px // backbone.encoder.side_multiple
        known["pos_embed"] = positions_for(known["pos_embed"], (side, side))
    wrong = [name for name in own if not name.endswith(_COUNTER) and not _fits(name, own, known)]
    if wrong:
        raise ConfigError(
            f"backbone.init {settings.init}: timm's weights of another network, {len(wrong)} of {len(own)} tensors do "
            f"not fit preset {settings.preset!r}, the first is {wrong[0]}"
        )
    encoder.load_state_dict({**own, **known})
    theirs = timm_input(backbone.encoder)
    backbone.input = InputScale(settings.input_mean or theirs.mean, settings.input_std or theirs.std)


def _fits(name: str, own: dict[str, Tensor], found: dict[str, Tensor]) -> bool:
    return name in own and name in found and own[name].shape == found[name].shape


def read_backbone_file(path: Path) -> BackboneFile:
    """Settings, notes and tensors of a file, ours or released.

    Raises:
        ConfigError: as `load_backbone` says.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ConfigError(f"backbone {path}: {error.strerror or error}; give an existing file") from None
    # A safetensors file is a length of 8 bytes, any bytes, and a JSON object; torch.save writes a zip or a pickle.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        return _read_released(path)
    return _read_ours(path)


def _read_ours(path: Path) -> BackboneFile:
    file = read_tensors(path, FORMAT, what="backbone", hint="give a file of `muse pretrain`")
    about, tensors = file.about, {name: tensor.float() for name, tensor in file.tensors.items()}
    try:
        settings = BackboneSettings.model_validate_json(about["settings"])
        notes = json.loads(about.get("notes", "{}"))
    except (KeyError, ValidationError, json.JSONDecodeError) as error:
        raise ConfigError(f"backbone {path}: settings of another version: {error}") from None
    return BackboneFile(path, settings, notes, tensors)


def _read_released(path: Path) -> BackboneFile:
    """A checkpoint in the layout of DINO and of the released MUSE weights."""
    try:
        # A namespace of the training command's arguments may lie beside the weights; it holds plain values only.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file, torch warns before it gives up
            stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN_FILE as error:
        why = str(error).split(". ")[0]
        raise ConfigError(f"backbone {path}: no plain weights ({why}); it is damaged or holds code") from None
    teacher = stored.get("teacher") if isinstance(stored, dict) else None
    if not isinstance(teacher, dict):
        raise ConfigError(f"backbone {path}: no entry 'teacher'; a released MUSE checkpoint has one")
    tensors = {
        name.removeprefix(_RELEASED): tensor.float()
        for name, tensor in teacher.items()
        if isinstance(tensor, Tensor) and name.startswith(_RELEASED)
    }
    return BackboneFile(path, _settings_of(tensors, path), {"source": path.name}, tensors)


def _settings_of(tensors: dict[str, Tensor], path: Path) -> BackboneSettings:
    """Preset and size of released weights, told by their shapes."""
    if "encoder.encoder.layer4.0.conv1.weight" in tensors:
        return BackboneSettings(preset="resnet50", geometry="official")
    positions = tensors.get(_POSITIONS)
    preset = {384: "vit-s16", 768: "vit-b16"}.get(positions.shape[-1] if positions is not None else 0)
    if positions is None or preset is None:
        raise ConfigError(
            f"backbone {path}: {len(tensors)} tensors under teacher and {_RELEASED!r}, of no MUSE model; ViT-S/16, "
            "ViT-B/16 or ResNet-50 needed"
        )
    side = round((positions.shape[1] - 1) ** 0.5)
    return BackboneSettings(preset=preset, image_px=16 * side, geometry="official")
