from pathlib import Path

import muse_core.ndc as package
from muse_core.config import load_settings
from muse_core.ndc.settings import FinetuneSettings


def test_the_recipes_that_ship_load():
    recipes = sorted((Path(package.__file__).parent / "recipes").glob("*.toml"))
    assert [path.name for path in recipes] == ["muse-nano-ndc-first.toml"]
    assert load_settings(FinetuneSettings, recipes[0]).steps == 2000
