"""Strands that hang on tissue are kept; lines, fibres and specks that are none are not."""

import cv2
import numpy as np
import pytest
import shapely

from muse_core.slide import open_slide
from muse_core.tissue import TissueSettings, find_tissue, tissue_mask
from muse_core.tissue.morphology import grown
from tests.tissue.test_mask import GLASS, INKS, MPP, SETTINGS, slide_image, tissue_image

EOSIN = (226, 150, 190)
WITHOUT = TissueSettings(min_strand_area_um2=1e9)


def with_line(
    colour: tuple[int, int, int] = EOSIN, *, width_um: int = 30, neck_um: int = 12, glass: tuple[int, int, int] = GLASS
) -> np.ndarray:
    """A slide whose tissue ends at x 250 with a line 0.6 mm long, the first 0.1 mm a neck; drawn at 1 µm/px."""
    image = slide_image(glass=glass)
    fine = np.full((400, 1200, 3), glass, np.uint8)
    cv2.line(fine, (0, 200), (100, 200), colour, neck_um)
    cv2.line(fine, (100, 200), (600, 200), colour, width_um)
    drawn = cv2.resize(fine, (150, 50), interpolation=cv2.INTER_AREA)
    image[125:175, 250:400] = drawn
    return image


def added(image: np.ndarray) -> np.ndarray:
    """What the mask has for strands' sake."""
    mask, without = tissue_mask(image, MPP, SETTINGS), tissue_mask(image, MPP, WITHOUT)
    assert not (without & ~mask).any()
    return mask & ~without


@pytest.mark.parametrize(("width_um", "neck_um"), [(30, 30), (30, 12), (45, 12), (20, 20)])
def test_a_strand_on_tissue_is_kept(width_um, neck_um):
    mask = tissue_mask(with_line(width_um=width_um, neck_um=neck_um), MPP, SETTINGS)
    kept = grown(mask, mask, least_px=SETTINGS.min_area_um2 / MPP**2)
    assert kept[149:151, 266:322].all()
    assert not kept[:140, 262:].any()
    assert not kept[160:, 262:].any()


def test_it_was_cut_off_by_its_neck_and_too_small():
    mask = tissue_mask(with_line(), MPP, WITHOUT)
    assert mask[149:151, 266:322].all()
    assert not grown(mask, mask, least_px=SETTINGS.min_area_um2 / MPP**2)[:, 262:].any()


def test_outlines_of_what_has_no_strand_stay_as_they_are():
    rng = np.random.default_rng(0)
    noisy = np.clip(slide_image() + rng.normal(0, 4, (300, 400, 3)), 0, 255).astype(np.uint8)
    for image in (slide_image(), noisy, tissue_image(200)):
        assert not added(image).any()


@pytest.mark.parametrize(
    "colour",
    [(150, 150, 152), (200, 190, 195), (205, 185, 200), *INKS.values()],
    ids=["grey", "glass edge", "tinted glass edge", *INKS],
)
def test_a_line_of_another_colour_on_tissue_is_left_out(colour):
    assert not added(with_line(colour))[:, 262:].any()


def test_a_strand_without_tissue_is_left_out():
    image = with_line()
    image[:, 90:270] = GLASS
    assert not added(image).any()


def test_specks_beside_tissue_are_left_out():
    fine = np.full((2400, 3200, 3), GLASS, np.uint8)
    for number in range(8):
        cv2.circle(fine, (2080 + 90 * (number % 4), 800 + 300 * (number // 4)), 20, EOSIN, -1)
    image = slide_image()
    image[:, 255:] = cv2.resize(fine, (400, 300), interpolation=cv2.INTER_AREA)[:, 255:]
    assert not added(image).any()


def test_a_slide_with_ink_has_none():
    image = with_line()
    cv2.line(image, (20, 30), (380, 30), INKS["blue"], 20)
    assert not added(image).any()


@pytest.mark.slides
def test_the_strand_of_a_real_slide(shared):
    with open_slide(shared / "data" / "slides" / "good" / "CMU-1-Small-Region.svs") as slide:
        found, without = (find_tissue(slide, settings).polygons for settings in (SETTINGS, WITHOUT))
    assert len(found) == 1
    on_it = shapely.points([(240, 1122), (400, 1062), (560, 1034), (720, 1066)])  # level-0 px
    assert shapely.contains(found[0], on_it).all()
    assert not shapely.contains(shapely.union_all(without), on_it).any()
    assert shapely.union_all(without).difference(found[0]).area < 0.001 * found[0].area
