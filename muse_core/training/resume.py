"""Going on with a run: only where that is asked for, and with the same settings."""

from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.machine.files import sweep_temporaries
from muse_core.training.checkpoint import Checkpoint, RunKind, read_checkpoint

STATE_NAME = "training.safetensors"


def stored_state(out: Path, kind: RunKind, *, resume: bool) -> Checkpoint | None:
    """The state of the run in `out`, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, or it cannot be read.
    """
    path = out / STATE_NAME
    if not path.exists():
        return None
    if not resume:
        raise ConfigError(f"{out}: holds a run; go on with --resume, or give another --out")
    stored = read_checkpoint(path, kind)
    sweep_temporaries(out)
    return stored


def first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    """The first setting that differs, as `key = old instead of new`."""
    for key in sorted(old.keys() | new.keys()):
        one, two = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            if found := first_difference(one, two, f"{prefix}{key}."):
                return found
        elif one != two:
            return f"{prefix}{key} = {one} instead of {two}"
    return None
