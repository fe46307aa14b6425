"""Whether an output folder's run may be gone on with."""

from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.machine.files import sweep_temporaries
from muse_core.pretrain.settings import PretrainSettings
from muse_core.training.checkpoint import Checkpoint, read_checkpoint
from muse_core.training.resume import first_difference

CHECKPOINT_NAME = "checkpoint.safetensors"


def identity(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that decide what comes out, as JSON values."""
    return settings.model_dump(mode="json", exclude={"run"})


def stored_run(out: Path, settings: PretrainSettings, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, it cannot be read, or it is of other settings.
    """
    path = out / CHECKPOINT_NAME
    if not path.exists():
        return None
    if not resume:
        raise ConfigError(f"{out}: holds a run; go on with --resume, or give another --out")
    try:
        stored = read_checkpoint(path)
    except ConfigError as error:
        before = path.with_name(f"{path.stem}-1{path.suffix}")
        if not before.exists():
            raise
        raise ConfigError(f"{error}; {before.name} is the one before it: copy it over {path.name}") from None
    other = first_difference(stored.about["settings"], identity(settings))
    if other:
        raise ConfigError(f"checkpoint {path}: made with {other}; give its settings, or another --out")
    sweep_temporaries(out)
    return stored
