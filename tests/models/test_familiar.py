import json

import cv2
import numpy as np
import pytest

from muse_core.models.familiar import FEATURES, describe, doubt_of, familiar_from, fitted, glass_of, windows_of

HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)


def drawn(seed, nuclei=HAEMATOXYLIN, around=EOSIN, glass=245.0, side=192):
    """Dark discs on stained ground, a little different each time."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(10, side - 10, (rng.integers(18, 30), 2))
    nuclei, around = (np.array(stain) * rng.uniform(0.85, 1.15, 3) for stain in (nuclei, around))  # of another lab
    density = np.full((side, side, 3), 0.25 * around * rng.uniform(0.8, 1.2), np.float32)
    inside = np.zeros((side, side), np.uint8)
    for x, y in xy:
        cv2.circle(inside, (int(x), int(y)), 7, 1, -1)
    density[inside > 0] = 0.9 * nuclei * rng.uniform(0.9, 1.1)
    density += rng.normal(0, 0.01, density.shape)
    density[:30, :30] = 0  # glass
    image = np.clip((glass + 1) * np.exp(-density) - 1, 0, 255).astype(np.uint8)
    return image, xy, rng.uniform(0.8, 0.95, len(xy))


def described(count, **changes):
    return np.concatenate([windows_of(*drawn(seed, **changes), mpp=0.5, network_mpp=0.5) for seed in range(count)])


@pytest.fixture(scope="module")
def familiar():
    return fitted(described(60))


def test_tissue_as_it_was_learned_from_is_not_doubted(familiar):
    assert doubt_of(described(60), familiar).share < 0.05


def test_a_dim_or_yellow_scan_of_it_is_not_either(familiar):
    assert doubt_of(described(30, glass=150.0), familiar).share < 0.2
    image, xy, score = drawn(0)
    yellow = (image * np.array([1.0, 0.95, 0.8])).astype(np.uint8)
    one = describe(image, xy, score, mpp=0.5, glass=glass_of(image))
    other = describe(yellow, xy, score, mpp=0.5, glass=glass_of(yellow))
    np.testing.assert_allclose(one, other, atol=0.06)


def test_another_stain_is_and_it_says_what_is_off(familiar):
    doubt = doubt_of(described(20, nuclei=DAB, around=(0.6, 0.6, 0.6)), familiar)
    assert doubt.share > 0.9
    assert any("blue" in why or "red" in why for why in doubt.why)


def test_blur_is(familiar):
    blurred = []
    for seed in range(20):
        image, xy, score = drawn(seed)
        blurred += windows_of(cv2.GaussianBlur(image, (0, 0), 4), xy, score, mpp=0.5, network_mpp=0.5)
    doubt = doubt_of(np.stack(blurred), familiar)
    assert doubt.share > 0.9
    assert "sharpness" in doubt.why


def test_it_goes_through_json(familiar):
    assert familiar_from(json.loads(json.dumps(familiar.as_json()))) == familiar
    with pytest.raises(ValueError, match="reshape"):
        familiar_from({**familiar.as_json(), "mean": [1.0]})


def test_what_says_nothing():
    image, _, _ = drawn(0)
    assert describe(image, np.empty((0, 2)), np.empty(0), mpp=0.5, glass=(255, 255, 255)) is None
    assert fitted(np.zeros((3, len(FEATURES)))) is None


def test_images_of_any_scale_are_cut_at_the_networks():
    image, xy, score = drawn(1, side=384)
    assert len(windows_of(image, xy, score, mpp=0.5, network_mpp=0.5)) == 4
    assert len(windows_of(image, xy, score, mpp=0.25, network_mpp=0.5)) == 1
