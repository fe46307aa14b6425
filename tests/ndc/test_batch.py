"""Batches are the same however many threads draw them, and however much of an image is looked at."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from muse_core.labels.regions import Region
from muse_core.ndc import samples as module
from muse_core.ndc.batch import batch_of_step
from muse_core.ndc.samples import draw_sample
from muse_core.ndc.settings import FinetuneSettings
from tests.data.make_patches import draw_patch


@pytest.fixture(scope="module")
def region():
    """A patch annotated in its middle, in an image much larger than a sample."""
    patch = draw_patch(800, 60, 0)
    annotated = np.zeros((800, 800), bool)
    annotated[300:500, 300:500] = True
    return Region("r", "c", patch.image, 0.25, annotated, patch.xy, patch.class_ids)


def test_threads_change_nothing(region):
    settings = FinetuneSettings(batch_size=4, side_px=96)
    alone = batch_of_step([region], [], 3, settings)
    with ThreadPoolExecutor(3) as pool:
        together = batch_of_step([region], [], 3, settings, drawers=pool)
    for one, other in zip(alone.samples, together.samples, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
    assert all((one == other).all() for one, other in zip(alone.dense, together.dense, strict=True))


def test_no_dense_targets_are_drawn_for_a_head_that_is_not_trained(region):
    settings = FinetuneSettings(batch_size=1, side_px=96, loss={"dense": 0})
    assert batch_of_step([region], [], 0, settings).dense is None


@pytest.mark.parametrize("seed", range(8))
def test_looking_at_what_is_shown_alone_shows_the_same(region, seed, monkeypatch):
    augment = FinetuneSettings().augment.model_copy(update={"rotate_share": 1.0, "empty_share": 0.0})
    part = draw_sample(region, 96, augment, np.random.default_rng(seed))
    everything = (slice(None), slice(None)), np.zeros(2, np.int64)
    monkeypatch.setattr(module, "shown_part", lambda centre, scale, side_px: everything)
    whole = draw_sample(region, 96, augment, np.random.default_rng(seed))
    np.testing.assert_array_equal(part.xy, whole.xy)
    assert (part.annotated == whole.annotated).mean() > 0.999  # a pixel at the rim may be rounded otherwise
    assert (part.seen == whole.seen).mean() > 0.999
    apart = np.abs(part.plain.astype(int) - whole.plain)[part.seen & whole.seen]
    assert apart.mean() < 0.05


def test_mosaics_are_drawn_with_another_stream_of_chance_than_any_sample(region, monkeypatch):
    drawn = []

    def drawing(region, side_px, augment, rng):
        drawn.append(rng.bit_generator.state)
        return draw_sample(region, side_px, augment, rng)

    monkeypatch.setattr("muse_core.ndc.batch.draw_sample", drawing)
    mosaics = []
    monkeypatch.setattr("muse_core.ndc.batch._with_mosaics", lambda samples, share, rng: mosaics.append(rng) or samples)
    batch_of_step([region], [], 3, FinetuneSettings(batch_size=2, side_px=96))
    assert mosaics[0].bit_generator.state not in drawn
