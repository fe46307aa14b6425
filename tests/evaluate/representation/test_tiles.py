import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.evaluate.representation import TileSettings, cut_tiles
from muse_core.labels import BRCA_DOT_OFFSET_PX, LabelledPatch, read_labelled_patches


def patch_of(xy, *, width=300, height=250, mpp=0.5, slide_mpp=None):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width)[None] // 2, np.arange(height)[:, None]
    xy = np.array(xy, np.float32).reshape(-1, 2)
    return LabelledPatch("p", image, xy, np.arange(len(xy)) % 3, ("a", "b", "c"), mpp, slide_mpp=slide_mpp)


def test_a_grid_of_224_px_where_each_nucleus_is_in_one_tile():
    patch = patch_of([(10, 20), (223.75, 100), (224, 100), (299, 249)])
    tiles = {tile.name: tile for tile in cut_tiles([patch], TileSettings())}
    assert list(tiles) == ["p_0_0", "p_1_0", "p_1_1"]  # (0, 1) has no nucleus
    np.testing.assert_array_equal(tiles["p_0_0"].xy, [[10, 20], [223.75, 100]])
    np.testing.assert_array_equal(tiles["p_1_0"].xy, [[0, 100]])
    np.testing.assert_array_equal(tiles["p_1_1"].xy, [[75, 25]])
    assert tiles["p_1_1"].class_ids.tolist() == [0]
    np.testing.assert_array_equal(tiles["p_0_0"].image, patch.image[:224, :224])
    corner = tiles["p_1_1"].image
    assert corner.shape == (224, 224, 3)
    np.testing.assert_array_equal(corner[:26, :76], patch.image[224:, 224:])
    np.testing.assert_array_equal(corner[:26, 76:86], patch.image[224:, 298:288:-1])  # mirrored about the last column


def test_a_larger_field_of_view_shows_more_and_scores_the_same_nuclei():
    patch = patch_of([(10, 20), (230, 30)], width=600, height=600)
    first, second = cut_tiles([patch], TileSettings(fov_px=512))
    np.testing.assert_array_equal(first.xy, [[154, 164]])  # 144 px around the square
    np.testing.assert_array_equal(second.xy, [[150, 174]])
    np.testing.assert_array_equal(second.image[144:], patch.image[:368, 80:592])


def test_at_twice_the_scale_coordinates_double():
    patch = patch_of([(10, 20), (113, 20)])
    first, second = cut_tiles([patch], TileSettings(mpp=0.25))
    np.testing.assert_array_equal(first.xy, [[20, 40]])
    np.testing.assert_array_equal(second.xy, [[2, 40]])
    # Red rises by a half a px of the patch; at tile px 100 we are at 50.25 of it, 49.75 of pixel centres.
    assert first.image[100, 100, 1] == pytest.approx(49.75, abs=0.6)


def test_official_coordinates_are_cut_to_whole_pixels_at_each_step():
    # Slide at 0.2 µm/px: squares of int(224 * 0.5 / 0.2) = 560 px; dots times 2.5, cut.
    patch = patch_of([(101, 31), (225, 31)], slide_mpp=0.2)
    settings = TileSettings(coordinates="official", dot_offset_px=1.0)
    first, second = cut_tiles([patch], settings)
    np.testing.assert_array_equal(first.xy, [[100, 30]])  # 250, 75 of the slide, times 224 / 560
    np.testing.assert_array_equal(second.xy, [[0, 30]])  # 224 * 2.5 = 560: the second square's first px
    (odd,) = cut_tiles([patch_of([(102, 31)], slide_mpp=0.2)], settings)
    np.testing.assert_array_equal(odd.xy, [[100, 30]])  # 101 * 2.5 = 252.5 -> 252, times 0.4 = 100.8 -> 100


def test_a_patch_without_nuclei_has_no_tile():
    assert list(cut_tiles([patch_of([])], TileSettings())) == []


@pytest.mark.parametrize("wrong", [{"mpp": 0.0}, {"fov_px": 200}, {"fov_px": 230}, {"coordinates": "other"}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ConfigError, match=r"needed|needs"):
        TileSettings(**wrong)


@pytest.mark.slides
@pytest.mark.parametrize(("mpp", "train", "val"), [(0.5, (663, 201), (80, 163)), (0.25, (1854, 58), (223, 48))])
def test_the_published_counts_on_brca_m2c(shared, mpp, train, val):
    settings = TileSettings(mpp=mpp, coordinates="official", dot_offset_px=BRCA_DOT_OFFSET_PX)
    for split, (n_tiles, most), n_nuclei in (("train", train, 18647), ("val", val, 3133)):
        patches = read_labelled_patches("brca-m2c", shared / "data" / "brca_m2c", split)
        counts = [len(tile.xy) for tile in cut_tiles(patches, settings)]
        assert (len(counts), max(counts), sum(counts)) == (n_tiles, most, n_nuclei)
