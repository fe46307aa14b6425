"""Masks: known ones, and drawn artefacts over real tissue."""

import cv2
import numpy as np
import pytest
from skimage.data import immunohistochemistry

from muse_core.tissue import TissueSettings, tissue_mask
from muse_core.tissue.faint import colour_texture
from muse_core.tissue.mask import estimate_background, glass_mask, looks_fluorescent

SETTINGS = TissueSettings()
MPP = 8.0
GLASS = (243, 240, 242)
INKS = {
    "green": (30, 140, 90),
    "dark green": (10, 70, 40),
    "blue": (40, 60, 160),
    "light blue": (60, 120, 190),
    "violet": (45, 40, 95),
    "black": (35, 35, 40),
    "red": (200, 35, 45),
    "yellow": (235, 220, 40),
}


def tissue_image(side: int) -> np.ndarray:
    """Real stained tissue, (side, side, 3), as an overview shows it: no glass in it, 1 px about 8 µm."""
    brown = immunohistochemistry()[:240, :240]  # within the stained gland
    small = cv2.resize(brown, (60, 60), interpolation=cv2.INTER_AREA)
    tiles = np.tile(np.concatenate([small, small[:, ::-1]], axis=1), (side // 60 + 1, side // 120 + 1, 1))
    return np.ascontiguousarray(tiles[:side, :side])


def slide_image(height: int = 300, width: int = 400, glass: tuple[int, int, int] = GLASS) -> np.ndarray:
    """Glass with a square of tissue at x 100..250, y 80..230."""
    image = np.full((height, width, 3), glass, np.uint8)
    image[80:230, 100:250] = tissue_image(150)
    return image


TRUTH = np.zeros((300, 400), bool)
TRUTH[80:230, 100:250] = True


def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((mask & truth).sum() / (mask | truth).sum())


def stroke(image: np.ndarray, colour: tuple[int, int, int], *, width_px: int = 30) -> np.ndarray:
    """The image under a pen stroke from left to right across the glass above the tissue and the tissue's top."""
    line = np.zeros(image.shape[:2], np.uint8)
    points = np.array([(x, 60 + 30 * np.sin(x / 40)) for x in range(0, image.shape[1], 5)])
    cv2.polylines(line, [points.astype(np.int32)], False, 255, width_px)
    amount = cv2.GaussianBlur(line, (0, 0), 1.0)[..., None] / 255
    transmitted = image * (np.maximum(np.array(colour), 3) / 245) ** amount
    return transmitted.astype(np.uint8), line > 0


class TestTissueMask:
    def test_finds_the_tissue_and_nothing_else(self):
        assert agreement(tissue_mask(slide_image(), MPP, SETTINGS), TRUTH) > 0.95

    @pytest.mark.parametrize("glass", [(255, 255, 255), (228, 223, 229), (235, 232, 220), (205, 205, 205)])
    def test_whatever_the_white_balance(self, glass):
        image = (slide_image() / np.array(GLASS) * np.array(glass)).clip(0, 255).astype(np.uint8)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.93

    def test_pale_stain_is_found(self):
        image = slide_image().astype(float)
        pale = GLASS * (image / GLASS) ** 0.3  # a third of the stain
        assert agreement(tissue_mask(pale.astype(np.uint8), MPP, SETTINGS), TRUTH) > 0.9

    @pytest.mark.parametrize("name", INKS)
    def test_pen_is_refused_on_glass_and_over_tissue(self, name):
        image, inked = stroke(slide_image(), INKS[name])
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & inked).sum() / inked.sum() < 0.02
        untouched = TRUTH & ~cv2.dilate(inked.view(np.uint8), np.ones((25, 25), np.uint8)).astype(bool)
        assert mask[untouched].mean() > 0.98

    def test_black_border_and_missing_tiles_are_refused(self):
        image = slide_image()
        image[:, :40] = 0
        image[:30] = 0
        image[120:160, 150:200] = 0  # a missing tile within the tissue
        mask = tissue_mask(image, MPP, SETTINGS)
        assert not mask[:, :42].any()
        assert not mask[121:159, 151:199].any()
        assert agreement(mask, TRUTH & (image.max(axis=2) > 0)) > 0.9

    def test_white_padding_beside_tinted_glass_is_glass(self):
        image = slide_image(glass=(240, 232, 241))
        image[250:] = 255
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_coverslip_edges_and_grey_dirt_are_refused(self):
        image = slide_image()
        cv2.line(image, (20, 0), (30, 299), (150, 150, 150), 2)
        cv2.line(image, (0, 280), (399, 270), (200, 190, 195), 2)  # with a tint
        cv2.circle(image, (330, 60), 25, (120, 120, 122), -1)
        image = cv2.GaussianBlur(image, (0, 0), 0.7)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_all_tissue_and_no_glass(self):
        assert tissue_mask(tissue_image(200), MPP, SETTINGS).mean() > 0.99

    def test_glass_alone_holds_none(self):
        noise = np.random.default_rng(0).normal(0, 2.0, (200, 200, 3))
        image = np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)
        assert not tissue_mask(image, MPP, SETTINGS).any()


def test_background_is_the_commonest_bright_flat_colour():
    image = slide_image(glass=(228, 223, 229))
    assert estimate_background(image, glass_mask(image)) == pytest.approx((228, 223, 229), abs=1)
    image[240:] = 255
    assert estimate_background(image, glass_mask(image)) == pytest.approx((228, 223, 229), abs=1)


def test_fluorescence_is_told_from_dark_tissue():
    dark = np.zeros((100, 100, 3), np.uint8)
    dark[40:50, 40:50] = (20, 60, 200)
    assert looks_fluorescent(dark)
    assert not looks_fluorescent(slide_image())
    assert not looks_fluorescent((tissue_image(100) * 0.6).astype(np.uint8))
    bordered = slide_image()
    bordered[:, 110:] = 0  # most of it is scanner border, yet there is glass
    assert not looks_fluorescent(bordered)


class TestPaleTissue:
    def test_stroma_that_only_its_nuclei_stain_is_found_beside_glands(self):
        image, truth = pale_stroma(gland=True)
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & truth).sum() / truth.sum() > 0.94  # its rim has no nuclei
        assert (mask & ~truth).sum() / mask.sum() < 0.02

    def test_the_same_far_from_any_sure_tissue_is_not(self):
        image, _ = pale_stroma(gland=False)
        assert not tissue_mask(image, MPP, SETTINGS).any()

    def test_grey_texture_beside_tissue_is_glass(self):
        image = slide_image()
        speckle = np.random.default_rng(0).normal(0, 12, (150, 100, 1))
        image[80:230, 250:350] = np.clip(np.array(GLASS) - 10 + speckle, 0, 255)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_line_that_touches_tissue_is_left_out(self):
        image = slide_image()
        cv2.line(image, (249, 150), (399, 170), (200, 190, 195), 2)
        image = cv2.GaussianBlur(image, (0, 0), 0.7)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_noise_on_a_slide_is_not_texture(self):
        noise = np.random.default_rng(0).normal(0, 4, (300, 400, 3))
        image = np.clip(slide_image() + noise, 0, 255).astype(np.uint8)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.9

    @pytest.mark.parametrize("name", INKS)
    def test_fading_rim_of_a_stroke_is_left_out(self, name):
        image, inked = stroke(slide_image(), INKS[name])
        near = cv2.dilate(inked.view(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & near & ~TRUTH).sum() < 0.02 * inked.sum()

    def test_texture_is_of_colour_only(self):
        image = np.full((64, 64, 3), GLASS, np.uint8)
        image[::4] = (122, 120, 121)  # half the light of each channel
        assert colour_texture(image, background=GLASS, size_px=5).max() < 0.003
        image[::4] = (150, 140, 190)
        assert colour_texture(image, background=GLASS, size_px=5)[:60].min() > 0.02

    def test_strips_make_no_difference(self):
        image = np.random.default_rng(0).integers(100, 255, (1100, 40, 3), np.uint8)
        whole = colour_texture(image, background=GLASS, size_px=5)
        np.testing.assert_array_equal(colour_texture(image[400:700], background=GLASS, size_px=5)[5:-5], whole[405:695])


def pale_stroma(*, gland: bool) -> tuple[np.ndarray, np.ndarray]:
    """A band of lone nuclei on near-glass, beside a gland or alone, and where tissue is."""
    rng = np.random.default_rng(2)
    fine = np.full((2400, 3200, 3), GLASS, np.uint8)  # 1 µm/px
    for x, y in zip(rng.uniform(1200, 2400, 2200), rng.uniform(600, 1800, 2200), strict=True):
        cv2.circle(fine, (int(x), int(y)), 4, (190, 195, 225), -1)
    image = cv2.resize(fine, (400, 300), interpolation=cv2.INTER_AREA)
    truth = np.zeros((300, 400), bool)
    truth[75:225, 150:300] = True
    if gland:
        image[75:225, 90:150] = tissue_image(150)[:, :60]
        truth[75:225, 90:150] = True
    return image, truth
