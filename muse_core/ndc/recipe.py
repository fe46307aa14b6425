"""Recipes of fine-tuning that ship, by name, and settings on top of them."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from muse_core.config import load_settings
from muse_core.errors import ConfigError
from muse_core.ndc.settings import FinetuneSettings

DEFAULT_RECIPE = "heat"


def shipped_recipes() -> dict[str, Path]:
    """Name and file of each recipe that ships."""
    folder = Path(str(files("muse_core.ndc"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def recipe_settings(name: str) -> FinetuneSettings:
    """The settings of a recipe.

    Raises:
        ConfigError: none is called so.
    """
    recipes = shipped_recipes()
    if name not in recipes:
        raise ConfigError(f"--recipe {name}: none is called so; give one of {', '.join(recipes)}")
    return load_settings(FinetuneSettings, recipes[name])


def load_finetune_settings(
    recipe: str = DEFAULT_RECIPE, config: Path | None = None, overrides: Iterable[str] = ()
) -> FinetuneSettings:
    """A recipe, a TOML file over it, and `key=value` over both.

    Raises:
        ConfigError: no such recipe or file, or a setting that makes no sense.
    """
    return load_settings(FinetuneSettings, config, overrides, base=recipe_settings(recipe))
