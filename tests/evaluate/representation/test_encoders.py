import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from muse_core.errors import ConfigError, DatasetError
from muse_core.evaluate.representation import MapEncoder, encoder_named, encoders, load_encoder
from muse_core.evaluate.representation.features import extract_features
from muse_core.evaluate.representation.tiles import Tile
from muse_core.models.backbone import BackboneSettings, build_backbone, sample_at, standardised
from muse_core.models.backbone_file import save_backbone


def tiles(n=3, side_px=64):
    rng = np.random.default_rng(0)
    return [
        Tile(
            f"t{index}",
            rng.integers(0, 255, (side_px, side_px, 3), np.uint8),
            rng.uniform(0, side_px, (index + 1, 2)).astype(np.float32),
            np.arange(index + 1) % 3,
        )
        for index in range(n)
    ]


def returns_places(images, xy):
    """Features that say which image and where, so that order can be seen."""
    return np.concatenate(
        [
            np.column_stack([points, np.full(len(points), image[0, 0, 0])])
            for image, points in zip(images, xy, strict=True)
        ]
    )


def returns_nan(images, xy):
    return np.full((sum(map(len, xy)), 2), np.nan)


def test_a_callable_by_name_sees_tiles_and_nuclei_in_order():
    found = extract_features(encoder_named(f"{__name__}:returns_places"), tiles(), batch_tiles=2)
    expected = np.concatenate([np.column_stack([t.xy, np.full(len(t.xy), t.image[0, 0, 0])]) for t in tiles()])
    np.testing.assert_array_equal(found.features.numpy(), expected.astype(np.float32))
    assert found.tile_index.tolist() == [0, 1, 1, 2, 2, 2]
    assert found.class_ids.tolist() == [0, 0, 1, 0, 1, 2]
    assert found.n_tiles == 3


def test_a_checkpoint_gives_its_map_at_the_nuclei(tmp_path):
    settings = BackboneSettings()
    torch.manual_seed(1)
    backbone = build_backbone(settings).eval()
    save_backbone(backbone, settings, tmp_path / "nano.safetensors", notes={})
    found = extract_features(load_encoder(tmp_path / "nano.safetensors"), tiles(1), batch_tiles=1)
    (tile,) = tiles(1)
    with torch.no_grad():
        feature_map = backbone(standardised(torch.from_numpy(tile.image).permute(2, 0, 1)[None])).map
    xy = torch.from_numpy(tile.xy)
    expected = sample_at(feature_map, xy, torch.zeros(1, dtype=torch.int64), side_px=(64, 64))
    torch.testing.assert_close(found.features, expected)


def test_networks_of_timm_four_stages_or_last_tokens():
    conv = encoder_named("timm:resnet18:random")
    assert extract_features(conv, tiles()).features.shape == (6, 64 + 128 + 256 + 512)
    vit = encoder_named("timm:vit_tiny_patch16_224:random")
    assert extract_features(vit, tiles(side_px=224)).features.shape == (6, 192)


def test_weights_of_a_file_and_of_another_network(tmp_path):
    first = encoder_named("timm:resnet18:random", seed=1)
    save_file(first.net.encoder.state_dict(), tmp_path / "w.safetensors")
    second = encoder_named("timm:resnet18", weights=tmp_path / "w.safetensors", seed=2)
    torch.testing.assert_close(extract_features(second, tiles()).features, extract_features(first, tiles()).features)
    with pytest.raises(ConfigError, match="another network"):
        encoder_named("timm:resnet10t", weights=tmp_path / "w.safetensors")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"bad\.pth"):
        encoder_named("timm:resnet18", weights=tmp_path / "bad.pth")


@pytest.mark.parametrize("held", [torch.zeros(3), [torch.zeros(3)], {1: torch.zeros(3)}])
def test_a_file_without_names_of_tensors_is_one_line(tmp_path, held):
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"x\.pth: no state dict but .*; tensors by name needed"):
        encoder_named("timm:resnet18", weights=tmp_path / "x.pth")


def test_the_seed_is_what_starts_at_random():
    one, same, other = (load_encoder(name="nano", image_px=64, seed=seed).state_dict() for seed in (1, 1, 2))
    name = max(one, key=lambda key: one[key].numel())
    torch.testing.assert_close(one[name], same[name])
    assert not torch.allclose(one[name], other[name])


@pytest.mark.parametrize("geometry", ["official", "exact"])
def test_official_coordinates_resample_the_positions_of_released_weights(tmp_path, geometry):
    settings = BackboneSettings(preset="vit-s16", image_px=64, geometry=geometry)
    save_backbone(build_backbone(settings), settings, tmp_path / "vit.safetensors", notes={})
    own, read = (
        load_encoder(tmp_path / "vit.safetensors", image_px=64, mode=mode).net.encoder.encoder.pos_embed
        for mode in (None, "official")
    )
    assert torch.equal(own, read) == (geometry == "exact")


def test_a_network_of_half_a_pixel_shift_is_read_where_its_pixels_are():
    encoder = MapEncoder(encoder_named("timm:resnet18:random").net)
    level = torch.arange(8.0).expand(1, 1, 8, 8)  # stride 8: pixel j lies at 8 j + 1.5
    xy = torch.tensor([[8 * 3 + 1.5, 20.0], [8 * 3 + 5.5, 20.0]])
    read = encoder._read(level, xy, torch.zeros(2, dtype=torch.int64), (64, 64))
    torch.testing.assert_close(read[:, 0], torch.tensor([3.0, 3.5]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nanno", "needs nano"),
        ("no_such_package:f", "cannot be imported"),
        ("json:no_such", "cannot be imported"),
        ("json:__name__", "not a callable"),
    ],
)
def test_names_that_are_none(name, said):
    with pytest.raises(ConfigError, match=said):
        encoder_named(name)


def test_what_a_callable_returns_is_checked():
    with pytest.raises(DatasetError, match="not all finite"):
        extract_features(returns_nan, tiles())
    with pytest.raises(DatasetError, match=r"\(6, D\) needed"):
        extract_features(lambda images, xy: np.zeros((4, 2)), tiles(), batch_tiles=8)
    with pytest.raises(DatasetError, match="no tile"):
        extract_features(returns_places, [])


def test_without_weights_that_ship_one_must_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "MUSE_NANO", tmp_path / "absent.safetensors")
    with pytest.raises(ConfigError, match="give --checkpoint"):
        load_encoder()
