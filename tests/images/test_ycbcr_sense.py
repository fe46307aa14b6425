"""Colours that stained tissue on glass cannot have."""

import numpy as np
import pytest
from PIL import Image

from muse_core.images.ycbcr_sense import is_ycbcr
from tests.data.make_slides import tissue_image


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return tissue_image(256, 256, mpp=0.5, seed=1)[0]


def ycbcr(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("YCbCr"))


def test_ycbcr_is_told_from_rgb(tissue):
    glass = np.full((64, 64, 3), 243, np.uint8)
    for places in ([tissue], [glass], [tissue, glass]):
        assert is_ycbcr([ycbcr(one) for one in places])
        assert not is_ycbcr(places)
    assert not is_ycbcr([])


def test_a_red_stain_beside_glass_is_rgb():
    """Eosin alone, or AEC, may be as salmon as glass in YCbCr; white glass beside it says what it is."""
    stain = np.full((64, 64, 3), (215, 125, 130), np.uint8)
    glass = np.full((64, 64, 3), 235, np.uint8)
    assert is_ycbcr([stain])
    assert not is_ycbcr([stain, stain, stain, glass])


def test_what_was_photographed_is_rgb(shared):
    for path in sorted((shared / "data").rglob("*.png"))[::40]:
        with Image.open(path) as image:
            assert not is_ycbcr([np.asarray(image.convert("RGB"))[:256, :256]]), path
