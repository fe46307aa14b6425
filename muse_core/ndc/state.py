"""A run's state in one safetensors file, what the run was begun with, and whether it may be gone on with.

net/<name>  average/<name>  best/<name>  optimiser/<parameter>/<exp_avg, exp_avg_sq, step>
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from muse_core.errors import ConfigError
from muse_core.labels.regions import fingerprint
from muse_core.machine.files import sweep_temporaries
from muse_core.models.tensor_file import save_tensors
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.start import start_id
from muse_core.training.checkpoint import Checkpoint
from muse_core.training.resume import first_difference

if TYPE_CHECKING:
    from muse_core.ndc.finetune_data import FinetuneData

STATE_NAME = "training.safetensors"

_FORMAT = "muse-ndc-training-1"
# What a run is begun with besides its settings, by its key in the identity.
_BEGUN_WITH = {
    "init": "another --init",
    "class_names": "other classes",
    "labelled": "other labels to train on",
    "validation": "other labels to validate by",
    "unlabelled": "other tissue without labels",
}


def identity_of(data: "FinetuneData", *, init: str, settings: FinetuneSettings) -> dict[str, Any]:
    """What decides a run's outcome, as JSON values: a run is not gone on with when one of them is another.

    Raises:
        ConfigError: no such start.
    """
    return {
        "settings": settings.model_dump(mode="json"),
        "init": start_id(init),
        "class_names": list(data.class_names),
        "labelled": fingerprint(data.labelled),
        "validation": fingerprint(data.validation),
        "unlabelled": fingerprint(data.unlabelled),
    }


def write_state(out: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replace the state in `out`, or leave the old one as it was.

    Args:
        out: the run's folder.
        tensors: by name.
        about: JSON values, the run's `identity` among them.

    Raises:
        OutputError: no space is left, or the folder cannot be written.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_tensors(out / STATE_NAME, own, metadata={"format": _FORMAT, "about": json.dumps(dict(about))})


def stored_state(out: Path, identity: Mapping[str, Any], *, resume: bool) -> Checkpoint | None:
    """The state in `out` to go on from, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, it cannot be read, or it is of a run that was begun otherwise.
    """
    path = out / STATE_NAME
    if not path.exists():
        return None
    if not resume:
        raise ConfigError(f"{out}: holds a run; go on with --resume, or give another --out")
    stored = _read(path)
    other = _difference(stored.about["identity"], identity)
    if other:
        raise ConfigError(f"{path}: of a run with {other}; give what it was begun with, or another --out")
    sweep_temporaries(out)
    return stored


def _read(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: no state of muse finetune ({error}); remove it to begin anew") from None
    if metadata.get("format") != _FORMAT:
        raise ConfigError(f"{path}: format {metadata.get('format')!r} found, {_FORMAT!r} needed; give another --out")
    return Checkpoint(tensors, json.loads(metadata["about"]))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What a run was begun with that is not so now."""
    setting = first_difference(old["settings"], new["settings"])
    if setting:
        return f"other settings ({setting})"
    return next((what for key, what in _BEGUN_WITH.items() if old[key] != new[key]), None)
