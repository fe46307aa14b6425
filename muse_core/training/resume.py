"""Going on with a run: only with the same settings."""

from typing import Any


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
