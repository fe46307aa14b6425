"""Batches: every nucleus is found by its pixels in each view that holds it, under its own number."""

import numpy as np
import pytest
import torch

from muse_core.pretrain.views.batch import ViewBatch, chosen_nuclei, view_batch
from muse_core.pretrain.views.settings import FirstGlobalPhotometrics, LocalPhotometrics, Photometrics, ViewSettings
from tests.pretrain.views.drawn_rois import colours, dot_centre, roi_sample, scattered

_STILL = {"stain_share": 0, "colour_share": 0, "grey_share": 0, "blur_share": 0, "noise_share": 0, "jpeg_share": 0}
PLAIN = {
    "first_global": FirstGlobalPhotometrics(**_STILL),
    "other_global": Photometrics(**_STILL),
    "local": LocalPhotometrics(**_STILL),
}
SMALL = ViewSettings(global_px=128, local_px=64, local_views=4, **PLAIN)
ROIS = [(420, 400, 0.25, 30), (300, 330, 0.5, 20), (280, 270, 0.31, 0)]  # width, height, mpp, nuclei


@pytest.fixture(scope="module")
def samples():
    made = []
    for index, (width, height, mpp, count) in enumerate(
        [(420, 400, 0.25, 30), (300, 330, 0.5, 20), (280, 270, 0.31, 0)]
    ):
        xy = scattered(count, width, height, np.random.default_rng(index))
        made.append(roi_sample(width, height, xy, mpp=mpp, index=index))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_nuclei_are_found_by_their_pixels_under_their_own_number(samples, seed):
    batch = view_batch(samples, [(seed, 0, sample.index) for sample in samples], SMALL)
    assert batch.image_index.tolist() == sorted(batch.image_index.tolist())
    images = [*batch.global_images, *batch.local_images]  # V of (B, 3, side, side)
    found = 0
    for view, (xy, valid) in enumerate(zip(batch.xy.numpy(), batch.valid.numpy(), strict=True)):
        side = images[view].shape[-1]
        for row in np.flatnonzero(valid):
            if (xy[row] < 9).any() or (xy[row] > side - 9).any():
                continue  # the dot is cut by the border
            image = images[view][batch.image_index[row]].permute(1, 2, 0).numpy()
            assert np.abs(dot_centre(image, xy[row]) - xy[row]).max() <= 0.5
            found += 1
    assert found > 12


def test_a_row_is_the_same_nucleus_in_every_view(samples):
    sample = samples[0]
    batch = view_batch([sample], [(3, 0, 0)], SMALL)
    palette = colours(7)
    images = [*batch.global_images, *batch.local_images]
    for row in range(batch.xy.shape[1]):
        seen = set()
        for view in np.flatnonzero(batch.valid[:, row].numpy()):
            column, line = np.floor(batch.xy[view, row].numpy()).astype(int)
            pixel = images[view][0, :, line, column].numpy().astype(float)
            seen.add(int(np.argmin(np.abs(palette - pixel).sum(axis=1))))
        assert len(seen) == 1, f"nucleus {row} has the colours of several"


def test_shapes_types_and_who_is_in(samples):
    batch = view_batch(samples, [(0, 0, sample.index) for sample in samples], SMALL)
    count = batch.xy.shape[1]
    assert batch.global_images.shape == (2, 3, 3, 128, 128)
    assert batch.local_images.shape == (4, 3, 3, 64, 64)
    assert batch.xy.shape == (6, count, 2)
    assert batch.valid.shape == (6, count)
    assert batch.image_index.shape == (count,)
    assert [tensor.dtype for tensor in (batch.global_images, batch.local_images, batch.xy, batch.valid)] == [
        torch.uint8,
        torch.uint8,
        torch.float32,
        torch.bool,
    ]
    assert batch.image_index.dtype == torch.int64
    assert batch.valid.any(dim=0).all()
    assert set(batch.image_index.tolist()) == {0, 1}  # the third ROI has no nuclei and still has views
    assert batch.roi_ids == ["drawn_0", "drawn_1", "drawn_2"]
    assert batch.slide_ids == ["drawn"] * 3
    assert len(batch) == 3


def test_no_locals_and_no_nuclei_make_a_batch(samples):
    batch = view_batch(samples[2:], [(0,)], SMALL.model_copy(update={"local_views": 0}))
    assert batch.local_images.shape == (0, 1, 3, 64, 64)
    assert batch.xy.shape == (2, 0, 2)
    assert batch.overlap() == (0.0, 1.0, None, None)


def test_views_depend_on_their_seed_alone(samples):
    one = view_batch(samples, [(1, 2, sample.index) for sample in samples], SMALL)
    other = view_batch(samples[::-1], [(1, 2, sample.index) for sample in samples[::-1]], SMALL)
    assert torch.equal(one.global_images, other.global_images.flip(1))
    assert torch.equal(one.local_images, other.local_images.flip(1))
    again = view_batch(samples, [(1, 3, sample.index) for sample in samples], SMALL)
    assert not torch.equal(one.global_images, again.global_images)


def test_colours_leave_the_views_where_they_are(samples):
    coloured = ViewSettings(global_px=128, local_px=64, local_views=4)
    one = view_batch(samples, [(1, 2, 3)] * 3, SMALL)
    other = view_batch(samples, [(1, 2, 3)] * 3, coloured)
    assert torch.equal(one.xy, other.xy)
    assert not torch.equal(one.global_images, other.global_images)


def test_each_touched_tile_is_decoded_once_and_no_other():
    sample = roi_sample(1024, 1024, np.full((1, 2), 700.0))
    view_batch([sample], [(0,)], ViewSettings(global_px=64, local_px=32, **PLAIN))
    # All squares hold the anchor and are at most 128 px wide: no tile farther than that from it (and 3 px) is touched.
    assert 4 <= sample.image.tiles_decoded <= 36
    assert all(
        abs((tile % 16) * 64 + 32 - 700) <= 131 + 32 and abs((tile // 16) * 64 + 32 - 700) <= 131 + 32
        for tile in sample.image._tiles
    )


def test_overlap_counted_by_hand():
    valid = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)  # two global views, one local
    batch = ViewBatch(
        torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 2),
        valid,
        torch.tensor([0, 0, 0, 1]),
        ["a", "b"],
        ["s", "s"],
    )
    # Globals share nucleus 0 (ROI 0) and none in ROI 1. First and local: nucleus 1 and nucleus 3. Second and local: 2.
    assert batch.overlap() == (0.5, 0.5, 0.75, 0.25)


def test_the_cap_keeps_what_is_compared():
    rng = np.random.default_rng(0)
    valid = rng.random((10, 600)) < 0.2
    settings = ViewSettings(max_nuclei=100)
    kept = chosen_nuclei(valid, settings, np.random.default_rng(1))
    compared = valid[:2].any(axis=0) & (valid.sum(axis=0) > 1)
    assert len(kept) == 100 < compared.sum()
    assert compared[kept].all()
    assert (np.diff(kept) > 0).all()
    assert kept.max() > 500  # a random choice, not the first
    assert kept.min() < 100
    few = chosen_nuclei(valid[:, :40], settings, np.random.default_rng(1))
    np.testing.assert_array_equal(few, np.flatnonzero(valid[:, :40].any(axis=0)))


def test_a_batch_goes_to_a_device_whole(samples):
    batch = view_batch(samples, [(0,)] * 3, SMALL)
    moved = batch.to("meta")
    assert all(getattr(moved, name).is_meta for name in ("global_images", "local_images", "xy", "valid", "image_index"))
    assert moved.roi_ids == batch.roi_ids
