import pytest

from muse_core.errors import ConfigError
from muse_core.ndc.recipe import DEFAULT_RECIPE, load_finetune_settings, recipe_settings, shipped_recipes
from muse_core.ndc.settings import FinetuneSettings


def test_the_recipes_that_ship_load():
    assert list(shipped_recipes()) == ["heat", "muse-nano-ndc-first", "muse-nano-ndc-last", "paper"]
    assert recipe_settings("muse-nano-ndc-first").steps == 2000
    assert recipe_settings(DEFAULT_RECIPE) == FinetuneSettings()


def test_the_papers_recipe_is_proposals_alone_on_samples_of_262_100_square_um():
    paper = recipe_settings("paper")
    assert (paper.side_px * 0.5) ** 2 == pytest.approx(262_100, rel=1e-3)
    assert paper.loss.dense == 0
    assert min(paper.loss.reg, paper.loss.type, paper.loss.cons) > 0
    assert paper.mosaic_share == 0


def test_a_file_goes_over_the_recipe_and_single_settings_over_both(tmp_path):
    config = tmp_path / "ours.toml"
    config.write_text("batch_size = 2\n[loss]\ncons = 0.5\n")
    settings = load_finetune_settings("paper", config, ["batch_size=3"])
    assert (settings.batch_size, settings.loss.cons, settings.loss.dense, settings.side_px) == (3, 0.5, 0, 1024)


def test_an_unknown_recipe_is_told_with_those_that_ship():
    with pytest.raises(ConfigError, match="--recipe papr: none is called so; give one of heat, muse-nano-ndc-f"):
        load_finetune_settings("papr")
