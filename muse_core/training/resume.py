"""Going on with a run: only where that is asked for, and with what it was begun with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.machine.files import sweep_temporaries
from muse_core.training.checkpoint import Checkpoint, RunKind, previous_of, read_checkpoint


def stored_state(out: Path, kind: RunKind, *, resume: bool) -> Checkpoint | None:
    """The state of the run in `out`, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, or it cannot be read; an older one beside it is named.
    """
    path = out / kind.file_name
    if not path.exists():
        return None
    if not resume:
        raise ConfigError(f"{out}: holds a run; go on with --resume, or give another --out")
    try:
        stored = read_checkpoint(path, kind)
    except ConfigError as error:
        before = previous_of(path, 1)
        if not before.exists():
            raise
        raise ConfigError(f"{error}; {before.name} is the one before it: copy it over {path.name}") from None
    sweep_temporaries(out)
    return stored


def check_begun_with(
    path: Path, begun: Mapping[str, Any], now: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> None:
    """Refuse to go on with a run that was begun with something else.

    Args:
        path: its state, for the message.
        begun: what it was begun with, JSON values; its settings under "settings".
        now: the same of what is asked for.
        words: what else must be the same, by its key there, in words for the message.

    Raises:
        ConfigError: something differs; the first that does is named.
    """
    setting = first_difference(begun["settings"], now["settings"])
    other = f"other settings ({setting})" if setting else None
    other = other or next((what for key, what in (words or {}).items() if begun[key] != now[key]), None)
    if other:
        raise ConfigError(f"{path}: of a run with {other}; give what it was begun with, or another --out")


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first setting that differs, as `key = old instead of new`."""
    for key in sorted(old.keys() | new.keys()):
        one, two = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            if found := first_difference(one, two, f"{prefix}{key}."):
                return found
        elif one != two:
            return f"{prefix}{key} = {one} instead of {two}"
    return None
