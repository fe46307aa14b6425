"""TOML file and --set overrides to a frozen settings object; errors in the user's words."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from muse_core.errors import ConfigError


class Settings(BaseModel):
    """Base of every stage's settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(
    kind: type[AnySettings],
    path: Path | None = None,
    overrides: Iterable[str] = (),
    *,
    base: AnySettings | None = None,
) -> AnySettings:
    """Read `kind` from a TOML file and `a.b=value` overrides, later ones winning.

    Args:
        kind: the settings class.
        path: a TOML file; None for the base.
        overrides: strings `key=value` with dotted keys; values are TOML (`3`, `0.5`, `true`, `[1, 2]`) or plain text.
        base: what holds where neither says anything; None for the defaults.

    Returns:
        The validated settings.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value of the wrong type or range.
    """
    values: dict[str, Any] = base.model_dump() if base else {}
    _lay_over(values, _read_toml(path) if path else {})
    for override in overrides:
        _apply_override(values, override)
    return _validated(kind, values, path)


def settings_of(
    kind: type[AnySettings], given: Settings | Mapping[str, Any] | None, base: AnySettings | None = None
) -> AnySettings:
    """Settings as Python callers give them.

    Args:
        kind: the settings class.
        given: one of it; or values by name, dotted names for those in sections (`{"rois.max_per_slide": 20}`), or
            nested as in TOML; None for nothing but the base.
        base: what holds where nothing is given; None for the defaults.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or range.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"settings {given!r}: values by name needed, such as {{'seed': 1}}, or a {kind.__name__}")
    values: dict[str, Any] = base.model_dump() if base else {}
    for key, value in _leaves(given or {}):
        _set(values, key, value, f"settings {key!r}")
    return _validated(kind, values, None)


def _lay_over(values: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Nested values in place of those that were there; a section keeps what the other does not name."""
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _lay_over(values[key], value)
        else:
            values[key] = value


def _leaves(given: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield before + key, value


def _validated(kind: type[AnySettings], values: Mapping[str, Any], path: Path | None) -> AnySettings:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, path)) from None


def settings_hash(settings: Settings) -> str:
    """Twelve hex digits that change whenever a setting does."""
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()[:12]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"config {path}: {error.strerror or error}; give an existing TOML file with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not TOML: {error}") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, such as --set rois.max_per_slide=20")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    _set(values, key.strip(), value, f"--set {override!r}")


def _set(values: dict[str, Any], key: str, value: object, said: str) -> None:
    """Put a value at its place; `said` is how the caller named it."""
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{said}: {parent!r} is a value, not a section")
        values = child
    values[last] = value


def _explain(error: ValidationError, kind: type[Settings], path: Path | None) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r} (known here: {', '.join(_siblings(kind, problem['loc']))})")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        whole = isinstance(problem["input"], dict)  # a rule over several keys: the message names them
        lines.append(": ".join(filter(None, (key, message))) if whole else f"{key} = {problem['input']!r}: {message}")
    return f"config {path or 'values'}: " + "; ".join(lines)


def _siblings(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that would have been accepted where an unknown one stood."""
    for part in location[:-1]:
        annotation = kind.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return sorted(kind.model_fields)
