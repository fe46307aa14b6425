"""An NDC network as a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.models.familiar import Familiar, familiar_from
from muse_core.models.ndc import NdcNet
from muse_core.models.tensor_file import read_tensors, save_tensors
from muse_core.ndc.head import FORMAT, NdcHead, head_from

_COUNTER = "num_batches_tracked"  # of batch norms; of no use after training


@dataclass(frozen=True)
class NdcCheckpoint:
    """A network, how its backbone is built, and how it is read.

    Attributes:
        net: the network.
        backbone: how its backbone is built.
        head: how it is read.
        notes: for people.
        familiar: the tissue that it knows; None where nobody looked.
    """

    net: NdcNet
    backbone: BackboneSettings
    head: NdcHead
    notes: dict[str, str]
    familiar: Familiar | None = None


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
    if checkpoint.familiar is not None:
        metadata["familiar"] = json.dumps(checkpoint.familiar.as_json())
    save_tensors(path, tensors, metadata=metadata)


def load_checkpoint(path: Path) -> NdcCheckpoint:
    """Read what `save_checkpoint` wrote, in eval mode.

    Raises:
        ConfigError: no such file, damaged, or not an NDC checkpoint.
    """
    file = read_tensors(path, FORMAT, what="NDC checkpoint", hint="give a file of `muse finetune`")
    about, tensors = file.about, {name: tensor.float() for name, tensor in file.tensors.items()}
    try:
        backbone = BackboneSettings.model_validate_json(about["backbone"])
        head = head_from(json.loads(about["head"]))
        notes = json.loads(about.get("notes", "{}"))
        familiar = familiar_from(json.loads(about["familiar"])) if "familiar" in about else None
    except (KeyError, TypeError, ValidationError, json.JSONDecodeError) as error:
        raise ConfigError(f"NDC checkpoint {path}: of another version: {error}") from None
    net = build_net(backbone, head)
    found = net.load_state_dict(tensors, strict=False)
    lacking = [name for name in found.missing_keys if not name.endswith(_COUNTER)]
    if lacking or found.unexpected_keys:
        raise ConfigError(f"NDC checkpoint {path}: tensors differ from this version's network: {lacking[:3]}")
    return NdcCheckpoint(net.eval(), backbone, head, notes, familiar)
