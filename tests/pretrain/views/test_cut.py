"""Pixels of views: dots stand where their coordinates say, turns are exact, and only touched tiles are decoded."""

import numpy as np
import pytest
from PIL import Image

from muse_core.pretrain.views.cut import cut_view
from muse_core.pretrain.views.placement import ViewPlace, coordinates
from muse_core.roi_dataset.image import RoiImage, encode_roi
from tests.pretrain.views.drawn_rois import dot_centre, roi_sample, scattered


@pytest.fixture(scope="module")
def dots():
    """24 dots of a sigma that stays resolved in a view half as fine."""
    xy = scattered(24, 420, 400, np.random.default_rng(0), apart_px=40)
    return xy, roi_sample(420, 400, xy, sigma_px=4.0).image


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.83, 1.0, 1.1, 1.37, 1.75, 2.0])
def test_dots_stand_where_their_coordinates_say(dots, scale, mirrored, turns):
    xy, image = dots
    side_px, rng = 160, np.random.default_rng([turns, mirrored, int(100 * scale)])
    middle = xy[np.argmin(np.abs(xy - 205).sum(axis=1))]
    corner = np.clip(middle - side_px * scale / 2 + rng.uniform(-8, 8, 2), 0, [420, 400] - np.full(2, side_px * scale))
    place = ViewPlace(*corner, side_px * scale, side_px, mirrored, turns)
    view = cut_view(image, place)
    xy_view = coordinates((place,), xy)[0]
    reach = int(np.ceil(9 / scale))
    seen = 0
    for point in xy_view:
        if (point > reach + 1).all() and (point < side_px - reach - 1).all():
            assert np.abs(dot_centre(view, point, reach_px=reach) - point).max() < 0.15
            seen += 1
    assert seen >= (1 if scale < 0.8 else 3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_at_full_scale_a_view_is_the_crop_turned(turns, mirrored):
    pixels = np.random.default_rng(0).integers(0, 255, (130, 150, 3), dtype=np.uint8)
    image = RoiImage(encode_roi(pixels, quality=100, tile_px=64))
    crop = image.decode()[20:84, 41:105]
    expected = np.rot90(crop[:, ::-1] if mirrored else crop, turns)
    np.testing.assert_array_equal(cut_view(image, ViewPlace(41, 20, 64, 64, mirrored, turns)), expected)


@pytest.mark.parametrize("side_roi", [112, 140, 168, 196, 224])
def test_scaling_down_is_as_good_as_antialiased_bicubic(side_roi):
    """Fine noise aliases where it is read too sparsely; Pillow's antialiased resize is the yardstick."""
    pixels = np.clip(np.random.default_rng(0).normal(128, 50, (256, 256, 3)), 0, 255).astype(np.uint8)
    image = RoiImage(encode_roi(pixels, quality=100))
    crop = np.ascontiguousarray(image.decode()[:side_roi, :side_roi])
    view = cut_view(image, ViewPlace(0, 0, side_roi, 112)).astype(float)
    bicubic = np.asarray(Image.fromarray(crop).resize((112, 112), Image.Resampling.BICUBIC), float)
    nearest = np.asarray(Image.fromarray(crop).resize((112, 112), Image.Resampling.NEAREST), float)
    error, aliased = (np.sqrt(np.square((it - bicubic)[4:-4, 4:-4]).mean()) for it in (view, nearest))
    assert error < 12
    assert error <= 0.35 * aliased


def test_a_view_at_the_corner_of_the_roi_has_no_foreign_pixels(dots):
    _, image = dots
    far = cut_view(image, ViewPlace(420 - 200.5, 400 - 200.5, 200.5, 96))
    assert far.shape == (96, 96, 3)
    assert far.min() > 5  # no black border
    np.testing.assert_allclose(np.median(far, axis=(0, 1)), [230, 225, 235], atol=2)


def test_only_tiles_under_the_square_are_decoded():
    image = roi_sample(512, 512, np.empty((0, 2))).image  # 8 x 8 tiles of 64 px
    cut_view(image, ViewPlace(70.5, 70.5, 50, 32))
    assert image.tiles_decoded == 1
    cut_view(image, ViewPlace(80, 100, 60, 32))  # reaches into the next row and column
    assert image.tiles_decoded == 4
    cut_view(image, ViewPlace(75, 80, 100, 64))
    assert image.tiles_decoded == 4
