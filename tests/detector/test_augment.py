from dataclasses import replace

import numpy as np
import pytest

from muse_core.detector.augment import (
    AugmentSettings,
    View,
    cut,
    degraded,
    empty_picture,
    immunostained,
    pigmented,
    random_view,
    recoloured,
    relit,
)
from tests.data.make_patches import draw_patch

PLAIN = AugmentSettings(
    empty_share=0,
    stain_share=0,
    immuno_share=0,
    pigment_share=0,
    light_share=0,
    hue_share=0,
    blur_share=0,
    sharpen_share=0,
    noise_share=0,
    jpeg_share=0,
)


def test_nuclei_move_with_the_pixels():
    patch = draw_patch(300, 30, seed=1)
    seen = 0
    for seed in range(12):
        view = cut(patch, 128, PLAIN, np.random.default_rng(seed))
        inner = view.xy[((view.xy > 12) & (view.xy < 116)).all(axis=1)]
        grey = 255 - view.image.mean(axis=2)
        for x, y in inner:
            left, top = int(x) - 9, int(y) - 9
            window = grey[top : top + 19, left : left + 19]
            weight = np.clip(window - 60, 0, None)
            rows, columns = np.mgrid[top : top + 19, left : left + 19] + 0.5
            centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
            assert np.abs(centre - (x, y)).max() < 1.0
            seen += 1
    assert seen > 40


def test_outside_the_patch_nothing_is_known():
    patch = draw_patch(100, 6, seed=2)
    view = cut(patch, 192, PLAIN.model_copy(update={"scale_sd": 0.0, "rotate_share": 0.0}), np.random.default_rng(0))
    assert view.valid.sum() == 100 * 100
    rows, columns = np.nonzero(view.valid)
    left, top = columns.min(), rows.min()  # the patch, mirrored at its edges, so that there is no edge to be seen
    np.testing.assert_array_equal(view.image[:, left - 1], view.image[:, left])
    np.testing.assert_array_equal(view.image[top - 1], view.image[top])


def test_the_scales_stay_in_range():
    patch = draw_patch(500, 0, seed=2)
    wild = PLAIN.model_copy(update={"scale_sd": 3.0})
    for seed in range(20):
        assert cut(patch, 128, wild, np.random.default_rng(seed)).image.shape == (128, 128, 3)


def test_the_same_generator_gives_the_same_view():
    patch = draw_patch(300, 20, seed=1)
    one, two = (random_view(patch, 128, AugmentSettings(), np.random.default_rng([3, 4])) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.xy, two.xy)


def test_without_strength_colours_stay():
    image = draw_patch(64, 4, seed=1).image
    still = AugmentSettings(stain_vector_sd=0, stain_gain_sd=0, stain_offset_sd=0, grey_share=0, saturation=0)
    change = np.abs(recoloured(image, still, np.random.default_rng(0)).astype(int) - image)
    assert change.max() < 60  # exposure alone
    strong = [recoloured(image, AugmentSettings(), np.random.default_rng(i)).reshape(-1, 3).mean(0) for i in range(20)]
    assert np.std(strong, axis=0).min() > 5


def test_degrading_keeps_the_picture():
    image = draw_patch(64, 4, seed=1).image
    settings = AugmentSettings(blur_share=0.5, sharpen_share=0.5, noise_share=1, jpeg_share=1)
    for seed in range(10):
        changed = degraded(image, settings, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert np.corrcoef(changed.ravel(), image.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("seed", range(12))
def test_empty_pictures_have_no_nuclei_and_one_size(seed):
    picture = empty_picture(96, np.random.default_rng(seed))
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    only_empty = AugmentSettings(empty_share=1)
    assert not len(random_view(draw_patch(100, 5, seed=0), 96, only_empty, np.random.default_rng(seed)).xy)


def _view(patch) -> View:
    return View(patch.image, patch.xy.astype(float), patch.class_ids, np.ones(patch.image.shape[:2], bool))


def test_immunostained_tissue_is_brown_around_nuclei_or_in_them():
    patch = draw_patch(200, 20, seed=4)
    columns, rows = patch.xy.astype(int).T
    beside = np.minimum(columns + 11, 199)

    def browner_beside(image: np.ndarray) -> np.ndarray:
        """Red less blue beside each nucleus, less that in it; 60 in the patch as drawn, whose nuclei are blue."""
        red_less_blue = image[..., 0].astype(float) - image[..., 2]
        return red_less_blue[rows, beside] - red_less_blue[rows, columns]

    images = [immunostained(_view(patch), np.random.default_rng(seed)) for seed in range(40)]
    assert {image.shape for image in images} == {patch.image.shape}
    assert sum(np.percentile(browner_beside(image), 75) > 70 for image in images) >= 5
    assert sum(np.percentile(browner_beside(image), 25) < -20 for image in images) >= 5


def test_restaining_needs_no_nucleus():
    patch = draw_patch(64, 0, seed=1)
    for seed in range(6):
        assert immunostained(_view(patch), np.random.default_rng(seed)).dtype == np.uint8


def test_pigment_darkens_and_keeps_off_nuclei():
    patch = draw_patch(200, 8, seed=4)
    columns, rows = patch.xy.astype(int).T
    changed = 0
    for seed in range(20):
        image = pigmented(patch.image, patch.xy.astype(float), np.random.default_rng(seed))
        assert (image <= patch.image).all()
        assert (image[rows, columns] > 0.5 * patch.image[rows, columns]).mean() > 0.8
        changed += (image < patch.image - 40).any()
    assert changed > 15


def test_light_scales_every_channel_and_hue_leaves_greys():
    image = np.full((4, 4, 3), (200, 100, 160), np.uint8)
    dim = AugmentSettings(light_share=1, light_min=0.5, light_max=0.5, light_tint_sd=0, gamma_sd=0, hue_share=0)
    assert relit(image, dim, np.random.default_rng(0))[0, 0].tolist() == [100, 50, 80]
    turned = AugmentSettings(light_share=0, hue_share=1, hue_degrees=20)
    found = relit(image, turned, np.random.default_rng(1))[0, 0].astype(int)
    assert abs(found.sum() - 460) <= 2
    assert np.abs(found - (200, 100, 160)).max() > 5
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert np.abs(relit(grey, turned, np.random.default_rng(1)).astype(int) - 90).max() <= 1


def test_what_is_not_annotated_is_not_known():
    patch = draw_patch(200, 12, seed=3)
    annotated = np.zeros((200, 200), bool)
    annotated[:, 100:] = True
    view = cut(replace(patch, annotated=annotated), 96, PLAIN, np.random.default_rng(2))
    whole = cut(patch, 96, PLAIN, np.random.default_rng(2))
    assert 0 < view.valid.sum() < whole.valid.sum()
    np.testing.assert_array_equal(view.image, whole.image)
