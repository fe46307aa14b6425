import argparse
import json
import os
import pickle

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from muse_core.errors import ConfigError, OutputError
from muse_core.models.backbone import IMAGENET_INPUT, BackboneSettings, MuseBackbone, build_backbone
from muse_core.models.backbone_file import load_backbone, read_backbone_file, save_backbone, start_from
from muse_core.models.shipped import MUSE_NANO
from tests.models.plain_muse import plain_decoder, plain_vit

TINY = BackboneSettings(preset="test_vit", image_px=64)


@pytest.fixture(scope="module")
def tiny() -> MuseBackbone:
    torch.manual_seed(0)
    return build_backbone(TINY).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint in the released layout: ViT-S/16 with a head, training arguments beside it."""
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(preset="vit-s16", geometry="official"))
    state = {f"module.backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state["module.head.mlp.0.weight"] = torch.zeros(4, 4)
    path = tmp_path_factory.mktemp("released") / "vit_s_16-224.pth"
    torch.save({"teacher": state, "student": {}, "epoch": 100, "args": argparse.Namespace(arch="vit_small")}, path)
    return path, backbone.eval().state_dict()


def test_what_is_saved_comes_back(tiny, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_backbone(tiny, TINY, path, notes={"data": "none"})
    images = torch.randn(1, 3, 64, 96)
    loaded = load_backbone(path)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(images).map, tiny(images).map)
    found = read_backbone_file(path)
    said = TINY.model_copy(update={"input_mean": IMAGENET_INPUT.mean, "input_std": IMAGENET_INPUT.std})
    assert (found.settings, found.notes) == (said, {"data": "none"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "muse-backbone-1"


def test_half_the_size_is_nearly_the_same(tiny, tmp_path):
    save_backbone(tiny, TINY, tmp_path / "whole.safetensors", notes={})
    save_backbone(tiny, TINY, tmp_path / "half.safetensors", notes={}, half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        half = load_backbone(tmp_path / "half.safetensors")
        torch.testing.assert_close(half(images).map, tiny(images).map, rtol=0.02, atol=0.02)


def test_positions_can_be_brought_to_another_size(tiny, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_backbone(tiny, TINY, path, notes={})
    larger = load_backbone(path, image_px=96)
    assert larger.state_dict()["encoder.encoder.pos_embed"].shape == (1, 1 + 36, 64)
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():  # once at loading, or for every image: the same rule
        torch.testing.assert_close(larger(images).map, tiny(images).map)


def test_a_released_checkpoint_gives_its_features(released):
    path, state = released
    backbone = load_backbone(path)
    assert (backbone.sampling, backbone.map_channels) == ("official", 384)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        levels, image = plain_vit(state, images, heads=6)
        found = backbone(images)
        torch.testing.assert_close(found.map, plain_decoder(state, levels), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.image, image, rtol=1e-3, atol=1e-4)


def test_the_released_loaders_positions_are_an_option(released):
    path, state = released
    name = "encoder.encoder.pos_embed"
    as_learned = read_backbone_file(path).tensors[name]
    assert torch.equal(as_learned, state[name])
    moved = load_backbone(path, legacy_positions=True).state_dict()[name]
    change = (moved - as_learned)[:, 1:].norm() / as_learned[:, 1:].norm()
    assert 0.05 < change < 0.15
    assert torch.equal(moved[:, :1], as_learned[:, :1])


@pytest.mark.parametrize(
    ("preset", "image_px"), [("vit-s16", 512), ("vit-b16", 224), ("vit-b16", 512), ("resnet50", 224)]
)
def test_which_released_model_it_is_stands_in_its_shapes(preset, image_px, tmp_path):
    with torch.device("meta"):
        shapes = build_backbone(BackboneSettings(preset=preset, image_px=image_px)).state_dict()
    teacher = {f"module.backbone.{name}": torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}
    torch.save({"teacher": teacher}, tmp_path / "released.pth")
    settings = read_backbone_file(tmp_path / "released.pth").settings
    assert settings == BackboneSettings(preset=preset, image_px=image_px, geometry="official")


class Payload:
    """What a pickle runs when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("new", [True, False])
def test_a_payload_is_refused_and_never_run(new, tmp_path):
    ran = tmp_path / "ran"
    stored = {"teacher": {"module.backbone.x": Payload(ran)}}
    torch.save(stored, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(ConfigError, match=r"bad.pth: no plain weights .*; it is damaged or holds code"):
        load_backbone(tmp_path / "bad.pth")
    (tmp_path / "worse.pth").write_bytes(pickle.dumps(Payload(ran)))
    with pytest.raises(ConfigError, match=r"worse.pth: "):
        load_backbone(tmp_path / "worse.pth")
    assert not ran.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_files_cut_short_are_named(tiny, tmp_path, share):
    save_backbone(tiny, TINY, tmp_path / "a.safetensors", notes={})
    torch.save({"teacher": {"module.backbone.x": torch.zeros(1000)}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ConfigError, match=rf"backbone .*{name}: "):
            load_backbone(tmp_path / name)


def test_altered_bytes_never_escape_as_another_error(tmp_path):
    torch.save({"teacher": {"module.backbone.x": torch.zeros(4)}}, tmp_path / "b.pth")
    torch.save(
        {"teacher": {"module.backbone.x": torch.zeros(4)}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    generator = torch.Generator().manual_seed(0)
    for name in ("b.pth", "old.pth"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(60):
            altered = bytearray(whole)
            for place in torch.randint(0, len(whole), (3,), generator=generator).tolist():
                altered[place] = int(torch.randint(0, 256, (1,), generator=generator))
            (tmp_path / name).write_bytes(bytes(altered))
            with pytest.raises(ConfigError):  # whole, it is of no MUSE model
                load_backbone(tmp_path / name)


def test_a_checkpoint_of_another_model_is_named(tiny, tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="no entry 'teacher'"):
        load_backbone(tmp_path / "other.pth")
    torch.save({"teacher": {"module.backbone.x": torch.zeros(1)}}, tmp_path / "dino.pth")
    with pytest.raises(ConfigError, match=r"1 tensors under teacher.*of no MUSE model"):
        load_backbone(tmp_path / "dino.pth")
    save_backbone(tiny, TINY.model_copy(update={"preset": "nano"}), tmp_path / "wrong.safetensors", notes={})
    with pytest.raises(ConfigError, match=r"tensors are not those of preset 'nano', the first is decoder.de"):
        load_backbone(tmp_path / "wrong.safetensors")


def test_weights_of_something_else_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"format": "muse-nucleus-detector-1"})
    with pytest.raises(ConfigError, match="format 'muse-nucleus-detector-1' found, 'muse-backbone-1' needed"):
        load_backbone(tmp_path / "a.safetensors")
    about = {"format": "muse-backbone-1", "settings": json.dumps({"preset": "nano", "wings": 2})}
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors", metadata=about)
    with pytest.raises(ConfigError, match=r"settings of another version: .*wings"):
        load_backbone(tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match="No such file or directory; give an existing file"):
        load_backbone(tmp_path / "none.safetensors")


def test_a_length_that_looks_like_a_zip_or_a_pickle_is_none(tmp_path):
    """The first bytes of a safetensors file are its header's length: 128 is the first byte of a pickle."""
    from safetensors.torch import save

    for filling in range(200):
        whole = save({"x": torch.zeros(1)}, metadata={"format": "other", "filling": "x" * filling})
        if whole[0] == 0x80:
            break
    assert whole[0] == 0x80
    (tmp_path / "a.safetensors").write_bytes(whole)
    with pytest.raises(ConfigError, match="format 'other' found"):
        load_backbone(tmp_path / "a.safetensors")


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a\.safetensors: cannot be written"):
        save_backbone(tiny, TINY, tmp_path / "file" / "a.safetensors", notes={})


HALF = (0.5, 0.5, 0.5)


def test_what_weights_take_goes_with_them(tmp_path):
    settings = BackboneSettings(preset="test_efficientnet", input_mean=HALF, input_std=HALF)
    save_backbone(build_backbone(settings), settings, tmp_path / "half.safetensors", notes={})
    found = load_backbone(tmp_path / "half.safetensors")
    assert found.input == (HALF, HALF)
    rgb = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(found.standardised(rgb), torch.ones(1, 3, 2, 2))
    assert load_backbone(MUSE_NANO).input == IMAGENET_INPUT  # written before files said it
    plain = BackboneSettings(preset="test_efficientnet", init=str(tmp_path / "half.safetensors"))
    begun = build_backbone(plain)
    start_from(begun, plain)
    assert begun.input == (HALF, HALF)
    with pytest.raises(ConfigError, match=r"its weights take input_mean \[0\.5, 0\.5, 0\.5\], backbone\.input_mean is"):
        start_from(begun, plain.model_copy(update={"input_mean": IMAGENET_INPUT.mean}))


def test_timms_own_weights_fill_the_encoder_and_say_what_they_take(tmp_path):
    net = timm.create_model("test_vit", num_classes=5)
    save_file(net.state_dict(), tmp_path / "timm.safetensors", metadata={"format": "pt"})
    settings = BackboneSettings(preset="test_vit", image_px=64, init=str(tmp_path / "timm.safetensors"))
    backbone = build_backbone(settings)
    start_from(backbone, settings)
    torch.testing.assert_close(backbone.encoder.encoder.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)
    assert backbone.encoder.encoder.pos_embed.shape[1] == 1 + (64 // 16) ** 2
    assert backbone.input == (tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"])) == (HALF, HALF)
    other = settings.model_copy(update={"preset": "test_efficientnet"})
    with pytest.raises(ConfigError, match="timm's weights of another network"):
        start_from(build_backbone(other), other)
