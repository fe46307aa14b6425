"""The matrix: one drawn slide in every encoding is read with the same nuclei, or refused with a reason of its own."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from muse_core.detector.detect import detect_image, load_detector
from muse_core.errors import MuseError
from muse_core.slide import open_slide
from tests.data.encodings import MPP, SAME, Encoding, draw, encodings, expected_of, slide_image, table

NEAR_PX = 0.5 / MPP
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return slide_image()


@pytest.fixture(scope="module")
def nuclei_in():
    """Nuclei of a picture, (N, 2) px; each picture is looked at once."""
    detector, found = load_detector("classical"), {}

    def nuclei(rgb: np.ndarray) -> np.ndarray:
        key = hash(rgb.tobytes())
        if key not in found:
            found[key] = detect_image(detector, rgb, MPP)[:, :2]
        return found[key]

    return nuclei


def _every_seventh_fast(encodings: list[Encoding]) -> list:
    """Those that are refused cost nothing; of those that are read, one in seven is looked at in a short run."""
    read = [one for one in encodings if one.expected == SAME]
    slow = {one.name for number, one in enumerate(read) if number % 7}
    return [pytest.param(one, id=one.name, marks=[pytest.mark.slow] * (one.name in slow)) for one in encodings]


@pytest.mark.parametrize("encoding", _every_seventh_fast(encodings()))
def test_an_encoding_gives_the_same_nuclei_or_its_own_reason(tmp_path, image, nuclei_in, encoding: Encoding):
    path = draw(tmp_path, encoding, image)
    override = MPP if encoding.resolution == "--mpp" else None
    if encoding.expected != SAME:
        with pytest.raises(MuseError, match=encoding.expected) as caught:
            open_slide(path, mpp_override=override)
        assert str(path) in str(caught.value)
        return
    expected = expected_of(encoding, image)
    with open_slide(path, mpp_override=override) as slide:
        assert (slide.info.mpp.x, slide.info.mpp.y) == pytest.approx((MPP, MPP), rel=1e-3)
        assert (slide.info.width_level0, slide.info.height_level0) == (image.shape[1], image.shape[0])
        found = slide.read_level(0, 0, image.shape[1], image.shape[0])
        for number, level in enumerate(slide.info.levels):
            small = slide.read_level(0, 0, level.width, level.height, level=number).mean(axis=(0, 1))
            assert np.abs(small - expected.mean(axis=(0, 1))).max() < 5
    ours, theirs = nuclei_in(found), nuclei_in(expected)
    assert len(theirs) > 100
    assert abs(len(ours) - len(theirs)) <= 0.01 * len(theirs)
    near = cKDTree(ours).query(theirs)[0] <= NEAR_PX
    assert near.mean() >= 0.99


def test_the_reference_finds_what_was_drawn(image, nuclei_in):
    from tests.data.make_slides import tissue_image

    drawn = tissue_image(image.shape[1], image.shape[0], mpp=MPP, seed=21)[1]
    near = cKDTree(nuclei_in(image)).query(drawn)[0] <= 3.0 / MPP
    assert near.mean() > 0.9


def test_the_page_of_formats_holds_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert len(encodings()) >= 60
    missing = [line for line in table().splitlines() if line not in page]
    assert not missing, "run: python -m tests.data.encodings"
