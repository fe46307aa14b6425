"""What a run leaves to be used: the teacher's backbone and a card that says where it comes from."""

import json
from pathlib import Path
from typing import Any

from muse_core.config import settings_hash
from muse_core.machine.files import whole_file
from muse_core.machine.installed import installed_version
from muse_core.models.backbone import MuseBackbone
from muse_core.models.backbone_file import save_backbone
from muse_core.pretrain.resume import identity
from muse_core.pretrain.settings import PretrainSettings

BACKBONE_NAME = "muse-backbone.safetensors"
CARD_NAME = "muse-backbone.json"


def export(backbone: MuseBackbone, settings: PretrainSettings, out: Path, *, about: dict[str, Any]) -> None:
    """Write backbone and card into `out`; the card also stands in the backbone's own notes.

    Args:
        backbone: the teacher's.
        settings: of the run.
        out: a folder.
        about: how far the run has come and on what; JSON values.

    Raises:
        OutputError: they cannot be written.
    """
    versions = {name: installed_version(name) for name in ("muse-nuclei", "torch", "timm")}
    card = {"stage": "pretrain", **about, "settings": identity(settings), "versions": versions}
    card["settings_hash"] = settings_hash(settings)
    notes = {key: value if isinstance(value, str) else json.dumps(value) for key, value in card.items()}
    bare = settings.backbone.model_copy(update={"init": "", "imagenet": False, "drop_path": 0.0})
    save_backbone(backbone, bare, out / BACKBONE_NAME, notes=notes)
    write_json(out / CARD_NAME, card)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
