from pathlib import Path

import pytest

from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings
from muse_core.pretrain.settings import PretrainSettings, load_pretrain_settings, shipped_recipes


def test_every_recipe_that_ships_loads_by_name():
    assert {"vit-s16", "vit-b16", "resnet50", "lfov-vit-b16"} <= shipped_recipes().keys()
    for name in shipped_recipes():
        settings = load_pretrain_settings(Path(name), [])
        assert isinstance(settings.backbone, BackboneSettings)


def test_the_paper_s_large_field_of_view_is_reached_by_steps():
    settings = load_pretrain_settings(Path("lfov-vit-b16"), [])
    sizes = [(views.global_px, views.local_px) for views, _ in map(settings.views_at, (0.0, 0.999))]
    assert sizes == [(224, 96), (512, 208)]


def test_without_a_name_the_recipe_of_the_weights_that_ship_is_taken():
    assert load_pretrain_settings(None, []) == load_pretrain_settings(Path("muse-nano"), [])
    assert load_pretrain_settings(None, []).backbone.imagenet


def test_a_misspelt_key_is_told_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.lambda_nuclei' \(known here: .*lambda_nu"):
        load_pretrain_settings(None, ["loss.lambda_nuclei=1"])


def test_a_config_that_is_neither_file_nor_name():
    with pytest.raises(ConfigError, match=r"no recipe that ships \(.*vit-s16"):
        load_pretrain_settings(Path("vit-xxl"), [])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss={lambda_image=0, lambda_nu=0}", "nothing is left to learn"),
        ("backbone.imagenet=false", "would keep random weights; set freeze_stages=0"),
        ("phases=[{until=0.5, global_px=64, local_px=32}]", "the last 1"),
        ("phases=[{until=1, global_px=64, local_px=32}, {until=0.5, global_px=96, local_px=32}]", "ascending"),
    ],
)
def test_what_makes_no_sense_is_refused(override, told):
    with pytest.raises(ConfigError, match=told):
        load_pretrain_settings(None, [override])


def test_phases_change_views_and_micro_batches():
    phases = "phases=[{until=0.5, global_px=64, local_px=32}, {until=1, global_px=96, local_px=48, accumulate=2}]"
    settings = load_pretrain_settings(None, [phases])
    sizes = [(views.global_px, views.local_px, accumulate) for views, accumulate in map(settings.views_at, (0, 0.5))]
    assert sizes == [(64, 32, 1), (96, 48, 2)]
    assert PretrainSettings().views_at(0.3) == (PretrainSettings().views, 1)
