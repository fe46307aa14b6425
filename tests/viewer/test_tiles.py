"""Tiles against the slide's own pixels, and what they may cost in memory."""

import io

import numpy as np
import pytest
from PIL import Image

from muse_core.errors import SlideReadError
from muse_core.slide import open_slide
from muse_core.viewer.tiles import TILE_PX, ByteCache, OpenSlides, crop_jpeg, tile_jpeg, top_zoom


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), np.float32)


@pytest.fixture
def slide(drawn):
    with open_slide(drawn[0], mpp_override=1.0) as one:
        yield one


def test_a_tile_is_the_level_itself(slide):
    expected = slide.read_level(2 * TILE_PX, TILE_PX, TILE_PX, TILE_PX).astype(np.float32)
    assert np.abs(pixels(tile_jpeg(slide, 0, 2, 1)) - expected).mean() < 4  # of 255, what JPEG takes
    coarse = pixels(tile_jpeg(slide, 2, 1, 1))
    expected = slide.read_level(TILE_PX, TILE_PX, TILE_PX, TILE_PX, level=1).astype(np.float32)
    assert np.abs(coarse - expected).mean() < 4


def test_one_tile_shows_the_whole_slide(slide):
    zoom = top_zoom(5600, 4800)
    assert zoom == 4
    whole = pixels(tile_jpeg(slide, zoom, 0, 0))
    assert whole.shape == (TILE_PX, TILE_PX, 3)
    assert whole[310:, :].mean() > 252, "white below the slide"
    assert whole[150, 175].mean() < 230, "tissue in its middle"


@pytest.mark.parametrize("place", [(5, 0, 0), (-1, 0, 0), (0, 11, 0), (0, 0, 10), (0, -1, 0)])
def test_there_are_no_other_tiles(slide, place):
    with pytest.raises(SlideReadError) as error:
        tile_jpeg(slide, *place)
    assert error.value.reason == "not_found"


def test_a_crop_has_its_point_in_the_middle(slide, drawn):
    x, y = drawn[1][len(drawn[1]) // 2]
    crop = pixels(crop_jpeg(slide, (x, y), 96.0, 192))
    assert crop.shape == (192, 192, 3)
    assert crop[88:104, 88:104].mean() < crop.mean() - 20, "a nucleus is dark"


def test_the_cache_keeps_to_its_bytes_and_forgets_the_oldest():
    cache, made = ByteCache(100), []

    def make(name):
        return cache.get(name, lambda: made.append(name) or bytes(40))

    for name in ("a", "b", "a", "c", "a", "b"):
        make(name)
    assert made == ["a", "b", "c", "b"]


def test_few_slides_are_open_at_a_time(drawn, tmp_path):
    paths = [tmp_path / f"{number}.svs" for number in range(4)]
    slides = OpenSlides()
    for path in paths:
        path.symlink_to(drawn[0])
        with slides.slide(path) as slide:
            assert slide.info.width_level0 == 5600
    assert len(slides._open) == 2
    slides.close()
    assert not slides._open


def test_a_slide_that_cannot_be_opened_does_not_stop_others(drawn, tmp_path):
    slides = OpenSlides()
    (tmp_path / "no.svs").write_bytes(b"nothing")
    for _ in range(5):
        with pytest.raises(SlideReadError), slides.slide(tmp_path / "no.svs"):
            pass
    with slides.slide(drawn[0]) as slide:
        assert slide.info.height_level0 == 4800
    slides.close()
