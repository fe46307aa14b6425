"""What augmentation does to pixels, against plain arithmetic; and that it moves nothing."""

import colorsys

import cv2
import numpy as np
import pytest

from muse_core.config import load_settings
from muse_core.errors import ConfigError
from muse_core.pretrain.views.augment import augmented, blurred, noisy, recoloured, recompressed, restained
from muse_core.pretrain.views.settings import Photometrics, ViewSettings
from tests.pretrain.views.drawn_rois import dot_centre, draw

OFF = Photometrics(
    stain_share=0, colour_share=0, grey_share=0, blur_share=0, noise_share=0, jpeg_share=0, solarize_share=0
)


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.clip(rng.normal((190, 150, 180), (30, 40, 25), (40, 50, 3)), 0, 255).astype(np.uint8)


def test_restaining_is_unmixing_scaling_and_mixing(picture):
    settings = Photometrics(stain_gain=0.3, stain_offset=0.05)
    draws = np.random.default_rng(5)
    gain, offset = 1 + draws.uniform(-0.3, 0.3, 3), draws.uniform(-0.05, 0.05, 3)
    stains = np.array([[0.65, 0.704, 0.286], [0.072, 0.99, 0.105], [0.268, 0.57, 0.776]])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    density = -np.log10(np.maximum(picture.astype(float), 1) / 255)
    amounts = np.linalg.solve(stains.T, density.reshape(-1, 3).T).T * gain + offset
    expected = np.clip(255 * 10 ** -(amounts @ stains), 0, 255).reshape(picture.shape)
    assert np.abs(restained(picture, settings, np.random.default_rng(5)) - expected).max() <= 0.51


def test_recolouring_is_the_four_steps_one_after_the_other(picture):
    settings = Photometrics(brightness=0.1, contrast=0.1, saturation=0.3, hue=0.04)
    draws = np.random.default_rng(6)
    brightness, contrast, saturation = (1 + draws.uniform(-strength, strength) for strength in (0.1, 0.1, 0.3))
    angle = 2 * np.pi * draws.uniform(-0.04, 0.04)
    luma = [0.299, 0.587, 0.114]
    pixels = picture * brightness  # nothing leaves 0..255 here, and nothing is clipped
    pixels = contrast * pixels + (1 - contrast) * (pixels @ luma).mean()
    pixels = saturation * pixels + (1 - saturation) * (pixels @ luma)[..., None]
    # colorsys clips to 0..1, and holds the same colour space, rounded to two digits.
    for row, column in ((3, 4), (20, 30), (39, 49)):
        y, i, q = colorsys.rgb_to_yiq(*pixels[row, column] / 255)
        turned = complex(i, q) * np.exp(1j * angle)
        expected = 255 * np.array(colorsys.yiq_to_rgb(y, turned.real, turned.imag))
        got = recoloured(picture, settings, np.random.default_rng(6))[row, column]
        np.testing.assert_allclose(got, expected, atol=1.5)


def test_without_strength_nothing_changes(picture):
    still = Photometrics(stain_gain=0, stain_offset=0, brightness=0, contrast=0, saturation=0, hue=0)
    assert np.abs(restained(picture, still, np.random.default_rng(0)).astype(int) - picture).max() <= 1
    np.testing.assert_array_equal(recoloured(picture, still, np.random.default_rng(0)), picture)
    np.testing.assert_array_equal(augmented(picture, OFF, np.random.default_rng(0)), picture)


def test_grey_views_hold_the_luma(picture):
    grey = augmented(picture, OFF.model_copy(update={"grey_share": 1}), np.random.default_rng(0))
    np.testing.assert_allclose(grey, (picture @ [0.299, 0.587, 0.114])[..., None].repeat(3, 2), atol=1)


def test_noise_has_the_strength_asked_for():
    flat = np.full((200, 200, 3), 128, np.uint8)
    noise = noisy(flat, 5.0, np.random.default_rng(0)).astype(float) - 128
    assert noise.std() == pytest.approx(5, rel=0.02)
    assert abs(noise.mean()) < 0.1


@pytest.mark.parametrize("sigma_px", [0.1, 0.7, 1.0, 2.0, 3.3])
def test_blur_is_opencv_s_within_a_grey_value(picture, sigma_px):
    expected = cv2.GaussianBlur(picture, (0, 0), sigma_px).astype(int)
    assert np.abs(blurred(picture, sigma_px) - expected).max() <= 1


def test_the_same_chance_makes_the_same_noise(picture):
    one, two, other = (noisy(picture, 5.0, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).mean() > 0.5


def test_compression_keeps_colours():
    flat = np.full((64, 64, 3), (180, 90, 140), np.uint8)
    np.testing.assert_allclose(recompressed(flat, 80), flat, atol=4)


def test_solarizing_inverts_the_bright_half():
    picture = np.array([[[10, 127, 128], [255, 0, 200]]], np.uint8)
    solarized = augmented(picture, OFF.model_copy(update={"solarize_share": 1}), np.random.default_rng(0))
    np.testing.assert_array_equal(solarized, [[[10, 127, 127], [0, 0, 55]]])


@pytest.mark.parametrize("view", [0, 1, 2])
def test_augmentation_moves_nothing(view):
    xy = np.array([[30.4, 33.7]])
    picture = draw(64, 64, xy)
    for seed in range(25):
        changed = augmented(picture, ViewSettings().photometrics(view), np.random.default_rng(seed))
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        ground = np.median(changed, axis=(0, 1))
        assert np.abs(dot_centre(changed, xy[0], ground) - xy[0]).max() < 0.5


def test_each_kind_of_view_has_its_own_share_of_blur():
    settings = ViewSettings()
    assert [settings.photometrics(view).blur_share for view in (0, 1, 2, 9)] == [1.0, 0.1, 0.5, 0.5]
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = 255
    kinds = [settings.photometrics(view).model_copy(update={"blur_sigma_px": (1.0, 1.0)}) for view in range(3)]
    only_blur = [OFF.model_copy(update={"blur_share": kind.blur_share, "blur_sigma_px": (1, 1)}) for kind in kinds]
    blurred = [
        np.mean([(augmented(edge, kind, np.random.default_rng(seed))[5, 15] > 0).all() for seed in range(200)])
        for kind in only_blur
    ]
    np.testing.assert_allclose(blurred, [1.0, 0.1, 0.5], atol=0.1)


def test_one_key_of_a_kind_leaves_its_other_defaults():
    settings = load_settings(ViewSettings, overrides=["first_global.grey_share=0", "local.noise_share=0.3"])
    assert (settings.first_global.grey_share, settings.first_global.blur_share) == (0, 1.0)
    assert (settings.local.noise_share, settings.local.blur_share) == (0.3, 0.5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("global_mp=[0.25, 0.5]", "unknown key 'global_mp'"),
        ("global_mpp=[0.5, 0.25]", "needs the finest mpp first"),
        ("local_px=100", "multiple of 16"),
        ("local.blur_share=1.5", "less than or equal to 1"),
        ("placement=centred", "'anchored', 'sub_roi' or 'uniform'"),
        ("local.blur_sigma_px=[2.0, 1.0]", "needs the smaller value first"),
        ("local.jpeg_quality=[90, 50]", "needs the smaller value first"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override, words):
    with pytest.raises(ConfigError, match=words.replace("'", ".")):
        load_settings(ViewSettings, overrides=[override])
