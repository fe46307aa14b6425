"""Optical density, stain estimation and separation, against colours drawn from known stains."""

import numpy as np
import pytest
from skimage.color import hed_from_rgb
from skimage.data import immunohistochemistry

from muse_core.images.stain import (
    RUIFROK_DAB,
    RUIFROK_EOSIN,
    RUIFROK_HAEMATOXYLIN,
    estimate_stains,
    optical_density,
    published_stains,
    separate,
)


def angle_deg(first, second):
    a, b = np.asarray(first), np.asarray(second)
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def draw(amounts, haematoxylin, counterstain, background=(255.0, 255.0, 255.0)):
    """RGB of tissue with given amounts (..., 2) of two stains."""
    vectors = np.array([haematoxylin, counterstain])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.round(np.asarray(background) * 10 ** -(np.asarray(amounts) @ vectors)).astype(np.uint8)


def mixtures(seed=0, n=20_000):
    rng = np.random.default_rng(seed)
    amounts = np.stack([rng.gamma(1.0, 0.3, n), rng.gamma(1.0, 0.3, n)], axis=1)
    amounts[: n // 10, 1] = 0  # some pure pixels of each, as nuclei and stroma have
    amounts[n // 10 : n // 5, 0] = 0
    return amounts[amounts.sum(axis=1) < 1.2]


class TestOpticalDensity:
    def test_is_minus_the_logarithm_of_transmission(self):
        rgb = np.array([[[255, 128, 26]]], np.uint8)
        np.testing.assert_allclose(optical_density(rgb)[0, 0], -np.log10(np.array([255, 128, 26]) / 255), atol=1e-6)

    def test_glass_has_none(self):
        glass = np.full((2, 3, 3), (240, 236, 242), np.uint8)
        np.testing.assert_allclose(optical_density(glass, background=(240, 236, 242)), 0, atol=1e-6)

    def test_black_is_finite(self):
        assert optical_density(np.zeros((1, 1, 3), np.uint8))[0, 0, 0] == pytest.approx(np.log10(255))

    def test_keeps_shape_and_type(self):
        pixels = np.zeros((7, 3), np.uint8)
        assert optical_density(pixels).shape == (7, 3)
        assert optical_density(np.zeros((8, 6, 3), np.uint8)[::2, ::3]).dtype == np.float32


class TestEstimateStains:
    @pytest.mark.parametrize("counterstain", ["eosin", "dab"])
    def test_finds_the_vectors_that_tissue_was_drawn_with(self, counterstain):
        haematoxylin = (0.60, 0.72, 0.35)
        second = {"eosin": (0.15, 0.90, 0.40), "dab": (0.30, 0.50, 0.81)}[counterstain]
        stains = estimate_stains(draw(mixtures(), haematoxylin, second))
        assert stains.estimated
        assert stains.counterstain_name == counterstain
        assert angle_deg(stains.haematoxylin, haematoxylin) < 4
        assert angle_deg(stains.counterstain, second) < 4

    def test_knows_dab_in_real_tissue(self):
        stains = estimate_stains(immunohistochemistry())
        assert stains.estimated
        assert stains.counterstain_name == "dab"
        assert angle_deg(stains.haematoxylin, RUIFROK_HAEMATOXYLIN) < 10

    def test_vectors_are_of_unit_length_and_not_negative(self):
        stains = estimate_stains(immunohistochemistry())
        for vector in (stains.haematoxylin, stains.counterstain):
            assert np.linalg.norm(vector) == pytest.approx(1)
            assert min(vector) >= 0

    @pytest.mark.parametrize(
        "pixels",
        [
            np.full((100, 100, 3), 243, np.uint8),  # glass
            np.zeros((0, 3), np.uint8),
            np.full((100, 100, 3), (20, 200, 40), np.uint8),  # green ink
            np.random.default_rng(0).integers(0, 255, (100, 100, 3)).astype(np.uint8),
        ],
        ids=["glass", "nothing", "ink", "noise"],
    )
    def test_falls_back_to_published_vectors(self, pixels):
        stains = estimate_stains(pixels)
        assert not stains.estimated
        assert angle_deg(stains.haematoxylin, RUIFROK_HAEMATOXYLIN) < 1e-4

    def test_one_stain_alone_is_not_split_in_two(self):
        amounts = np.zeros((5000, 2))
        amounts[:, 0] = np.linspace(0.2, 1.0, 5000)
        assert not estimate_stains(draw(amounts, RUIFROK_HAEMATOXYLIN, RUIFROK_EOSIN)).estimated


class TestSeparate:
    def test_gives_back_the_amounts(self):
        amounts = np.array([[[0.0, 0.0], [0.5, 0.0], [0.0, 0.6], [0.4, 0.3]]])
        background = (245.0, 240.0, 242.0)
        rgb = draw(amounts, RUIFROK_HAEMATOXYLIN, RUIFROK_DAB, background)
        found = separate(rgb, published_stains("dab", background=background))
        np.testing.assert_allclose(found, amounts, atol=0.02)

    def test_is_never_negative(self):
        assert separate(immunohistochemistry(), published_stains("dab")).min() >= 0

    def test_agrees_with_scikit_image_up_to_scale(self):
        image = immunohistochemistry()[::4, ::4]
        density = optical_density(image)
        reference = density @ hed_from_rgb  # haematoxylin, eosin, DAB by Ruifrok and Johnston
        found = separate(image, published_stains("dab"))
        assert np.corrcoef(found[..., 1].ravel(), reference[..., 2].ravel())[0, 1] > 0.98
