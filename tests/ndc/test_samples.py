from dataclasses import replace

import numpy as np
import pytest

from muse_core.detector.augment import AugmentSettings
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region, regions_of, unlabelled_region
from muse_core.ndc.samples import Sample, draw_sample, joined
from tests.data.make_patches import draw_patch

PLAIN = AugmentSettings(scale_sd=0, rotate_share=0, stain_share=0, blur_share=0, sharpen_share=0, noise_share=0)
PLAIN = PLAIN.model_copy(update={"jpeg_share": 0, "empty_share": 0})


def _marked_region(side=400, annotated=None):
    """White with a black square of 3 px on each nucleus, so that nuclei can be looked up in any sample."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(20, side - 20, (25, 2))
    image = np.full((side, side, 3), 255, np.uint8)
    for x, y in xy.astype(int):
        image[y - 1 : y + 2, x - 1 : x + 2] = 0
    xy = xy.astype(int) + 0.5
    return Region("r", "c", image, 0.5, annotated, xy.astype(np.float32), rng.integers(0, 3, 25))


@pytest.mark.parametrize("seed", range(6))
def test_nuclei_move_with_the_pixels_at_any_scale_and_angle(seed):
    augment = PLAIN.model_copy(update={"scale_sd": 0.2, "rotate_share": 1.0})
    sample = draw_sample(_marked_region(), 256, augment, np.random.default_rng(seed))
    inside = ((sample.xy > 4) & (sample.xy < 252)).all(1)
    assert inside.sum() > 3
    for x, y in sample.xy[inside]:
        column, row = int(x), int(y)
        assert sample.image[row - 1 : row + 2, column - 1 : column + 2].min() < 110


def test_a_sample_smaller_than_the_region_lies_within_it():
    for seed in range(20):
        sample = draw_sample(_marked_region(), 256, PLAIN, np.random.default_rng(seed))
        assert sample.seen.all()
        assert sample.annotated.all()


def test_a_larger_sample_holds_all_of_the_region_anywhere_in_it():
    offsets = []
    for seed in range(40):
        sample = draw_sample(_marked_region(200), 512, PLAIN, np.random.default_rng(seed))
        assert sample.seen.sum() == 200 * 200
        assert len(sample.xy) == 25
        rows, columns = np.nonzero(sample.seen)
        offsets.append((columns.min(), rows.min()))
    spread = np.array(offsets)
    assert (spread.min(0) < 60).all()
    assert (spread.max(0) > 250).all()  # of 0..312


def test_surrounding_tissue_is_shown_and_marked_as_not_annotated():
    annotated = np.zeros((400, 400), bool)
    annotated[150:250, 150:250] = True
    sample = draw_sample(_marked_region(400, annotated), 256, PLAIN, np.random.default_rng(0))
    assert sample.seen.sum() > 0.9 * 256**2
    assert sample.annotated.sum() == 100 * 100


def test_of_the_papers_samples_most_lies_outside_the_annotated_area_which_may_be_anywhere():
    annotated = np.zeros((1548, 1548), bool)
    annotated[524:1024, 524:1024] = True  # a patch of 500 px with all around it that eq. 8 can draw
    corners = []
    for seed in range(12):
        region = _marked_region(1548, annotated)
        sample = draw_sample(region, 1024, PLAIN, np.random.default_rng(seed))
        assert sample.seen.all()
        assert sample.annotated.sum() == 500 * 500
        rows, columns = np.nonzero(sample.annotated)
        corners.append((columns.min(), rows.min()))
    assert (np.ptp(corners, axis=0) > 250).all()  # of 0..524


def test_a_polygon_stays_one_under_rotation():
    annotated = np.tril(np.ones((300, 300), bool))
    augment = PLAIN.model_copy(update={"rotate_share": 1.0})
    sample = draw_sample(_marked_region(300, annotated), 512, augment, np.random.default_rng(1))
    assert sample.annotated.sum() == pytest.approx(annotated.sum(), rel=0.01)
    assert (sample.annotated & ~sample.seen).sum() == 0


def test_the_teachers_picture_has_the_same_geometry_and_its_own_colours():
    augment = PLAIN.model_copy(update={"stain_share": 1.0})
    sample = draw_sample(regions_of([draw_patch(300, 30, 0)])[0], 256, augment, np.random.default_rng(0))
    assert not np.array_equal(sample.image, sample.plain)
    grey, plain = (picture.astype(float).mean(2).ravel() for picture in (sample.image, sample.plain))
    assert np.corrcoef(grey, plain)[0, 1] > 0.9


def test_the_same_draws_give_the_same_sample():
    region = regions_of([draw_patch(300, 30, 0)])[0]
    one, two = (draw_sample(region, 256, AugmentSettings(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.xy, two.xy)


def test_of_an_unlabelled_image_nothing_is_annotated():
    region = unlabelled_region("u", _marked_region().image, 0.5)
    sample = draw_sample(region, 256, PLAIN, np.random.default_rng(0))
    assert not sample.annotated.any()
    assert sample.seen.all()
    assert not len(sample.xy)


def test_a_patch_is_a_case_of_its_own_unless_it_says_whose_it_is():
    patches = [draw_patch(100, 2, 0, name) for name in ("a", "b")]
    assert [region.case for region in regions_of([patches[0], replace(patches[1], case="P7")])] == ["a", "P7"]


def test_immunostaining_shows_where_nuclei_are_but_not_what():
    region = regions_of([draw_patch(300, 30, 0)])[0]
    sample = draw_sample(region, 224, AugmentSettings(immuno_share=1.0, empty_share=0), np.random.default_rng(0))
    assert len(sample.xy)
    assert (sample.class_ids == UNKNOWN_CLASS).all()
    assert (region.class_ids != UNKNOWN_CLASS).all()


def test_classes_stay_with_their_nuclei_whatever_changes():
    region = regions_of([draw_patch(300, 30, 0)])[0]
    colours = np.stack([region.image[tuple(region.xy[region.class_ids == c][0].astype(int)[::-1])] for c in range(3)])
    counted = 0
    for seed in range(8):
        augment = AugmentSettings(rotate_share=1.0, scale_sd=0.2, stain_share=1.0, empty_share=0, immuno_share=0)
        sample = draw_sample(region, 256, augment, np.random.default_rng(seed))
        inside = ((sample.xy > 3) & (sample.xy < 253)).all(1)
        columns, rows = sample.xy[inside].astype(int).T
        distance = np.abs(sample.plain[rows, columns][:, None].astype(float) - colours).sum(2)
        assert np.array_equal(distance.argmin(1), sample.class_ids[inside])
        counted += int(inside.sum())
    assert counted > 50


def test_a_picture_without_tissue_has_no_nucleus_and_is_known_all_over():
    augment = AugmentSettings(empty_share=1.0)
    sample = draw_sample(regions_of([draw_patch(300, 30, 0)])[0], 256, augment, np.random.default_rng(0))
    assert len(sample.xy) == len(sample.class_ids) == 0
    assert sample.annotated.all()


@pytest.mark.parametrize("seed", range(4))
def test_joined_samples_keep_each_its_own_side_of_the_cut(seed):
    side_px = 64
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, side_px, (200, 2))
    seen = np.ones((side_px, side_px), bool)
    black, white = (np.full((side_px, side_px, 3), value, np.uint8) for value in (0, 255))
    one = Sample(black, black, xy, np.zeros(200, np.int64), seen, ~seen)
    other = Sample(white, white, xy, np.ones(200, np.int64), seen, seen)
    found = joined(one, other, rng)
    columns, rows = found.xy.astype(int).T
    is_other = found.image[rows, columns, 0] == 255
    assert np.array_equal(is_other, found.class_ids == 1)
    assert np.array_equal(found.annotated, found.image[..., 0] == 255)
    assert len(found.xy) == 200, "both samples hold the same places, and each place lies on one side"
    assert 0.2 < found.annotated.mean() < 0.8
