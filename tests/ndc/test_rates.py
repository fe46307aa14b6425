import pytest

from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.models.backbone_file import save_backbone
from muse_core.ndc.rates import rates_for, with_rates
from muse_core.ndc.settings import FinetuneSettings, ModelSettings
from muse_core.ndc.start import start_from


def test_a_vits_encoder_learns_at_a_hundredth_of_nanos_pace():
    assert rates_for("vit-b16") == rates_for("vit_small_patch16_224")
    paces = {name: rates_for(name).learning_rate * rates_for(name).encoder_rate for name in ("nano", "vit-b16")}
    assert paces == pytest.approx({"nano": 5e-4, "vit-b16": 1e-5})
    assert rates_for("resnet50").learning_rate * rates_for("resnet50").encoder_rate == pytest.approx(4e-5)


def test_what_is_given_wins_over_the_table():
    settings = with_rates(FinetuneSettings(learning_rate=3e-4), "vit-s16")
    assert (settings.learning_rate, settings.encoder_rate, settings.drop_path) == (3e-4, 0.1, 0.1)


def test_a_vit_drops_paths_while_it_learns_and_its_checkpoint_says_nothing_of_it(tmp_path):
    settings = BackboneSettings(preset="test_vit", image_px=64)
    path = tmp_path / "vit.safetensors"
    save_backbone(build_backbone(settings), settings, path, notes={})
    dropping = {name: start_from(str(path), ("a",), ModelSettings(hidden=8), drop_path=name) for name in (0.0, 0.2)}
    kinds = {share: {type(one).__name__ for one in start.net.modules()} for share, start in dropping.items()}
    assert "DropPath" not in kinds[0.0]
    assert "DropPath" in kinds[0.2]
    assert dropping[0.2].backbone.drop_path == 0
