"""Broken bytes are found before a decoder that hides them sees them."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from muse_core.errors import SlideReadError
from muse_core.slide import open_slide
from muse_core.slide.tiff_pages import read_tiff_facts
from muse_core.slide.tile_check import TileCheck
from tests.data.make_slides import Drawing, break_tile, draw_tiff, tissue_image


@pytest.fixture
def slide_tif(tmp_path):
    return draw_tiff(tmp_path / "a.tif", tissue_image(700, 500, seed=1)[0], Drawing(factors=(1,)))


def check_of(path) -> TileCheck:
    """A check of a single-level slide."""
    return TileCheck(path, read_tiff_facts(path).pages)


def test_sound_tiles_pass(slide_tif):
    check_of(slide_tif).region((0, 0), 700, 500, level=0)


@pytest.mark.parametrize(
    ("keep_bytes", "words"),
    [(0, "does not begin as JPEG"), (40, "has a broken JPEG header"), (1500, "has no end of JPEG data")],
)
def test_an_overwritten_tile_is_named(slide_tif, keep_bytes, words):
    break_tile(slide_tif, 1, 1, keep_bytes=keep_bytes)
    check = check_of(slide_tif)
    check.region((0, 0), 240, 480, level=0)
    with pytest.raises(SlideReadError, match=f"tile 1, 1 of level 0 {words}"):
        check.region((239, 239), 2, 2, level=0)


def test_a_tile_behind_the_end_of_the_file(slide_tif):
    whole = slide_tif.read_bytes()
    check = check_of(slide_tif)
    slide_tif.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(SlideReadError, match="lies beyond the end of the file, which is truncated"):
        check.region((0, 0), 700, 500, level=0)


def test_each_tile_is_looked_at_once(slide_tif):
    check = check_of(slide_tif)
    check.region((0, 0), 700, 500, level=0)
    slide_tif.unlink()
    check.region((0, 0), 700, 500, level=0)


def test_a_tile_left_out_is_white(tmp_path):
    image = tissue_image(700, 500, seed=1)[0]
    path = draw_tiff(tmp_path / "a.tif", image, Drawing(factors=(1,)))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        counts = list(page.databytecounts)
        counts[4] = 0
        page.tags["TileByteCounts"].overwrite(counts)
        offsets = list(page.dataoffsets)
        offsets[4] = 0
        page.tags["TileOffsets"].overwrite(offsets)
    for reader in ("auto", "openslide", "tifffile"):
        with open_slide(path, reader=reader) as slide:
            assert (slide.read_level(245, 245, 200, 200) == 255).all(), reader
            tiles = slide.jpeg_tiles()
            assert tiles.read_tile(1, 1) == b""
            assert tiles.read_tile(0, 0).startswith(b"\xff\xd8")
            tiles.close()


def test_a_file_that_cannot_be_read_any_more_is_the_slides_fault(slide_tif):
    check = check_of(slide_tif)
    slide_tif.unlink()
    with pytest.raises(SlideReadError, match=r"a\.tif: No such file or directory"):
        check.region((0, 0), 700, 500, level=0)


def test_nothing_is_said_on_standard_error_about_a_bad_tile(slide_tif, capfd):
    break_tile(slide_tif, 1, 1)
    with open_slide(slide_tif) as slide, pytest.raises(SlideReadError, match="tile 1, 1"):
        slide.read_level(250, 250, 50, 50)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("colour", [(255, 255, 255), (244, 243, 245), (128, 128, 128), (0, 0, 0)])
def test_a_progressive_tile_of_one_colour_is_sound(tmp_path, colour):
    stream = io.BytesIO()
    Image.new("RGB", (512, 512), colour).save(stream, "JPEG", quality=90, progressive=True)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        options = {"tile": (512, 512), "photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
        tiff.write(iter([stream.getvalue()] * 4), shape=(1024, 1024, 3), dtype=np.uint8, metadata=None, **options)
    with open_slide(tmp_path / "a.tif", mpp_override=0.5) as slide:
        assert np.abs(slide.read_level(0, 0, 1024, 1024).astype(int) - colour).max() <= 2
    check_of(tmp_path / "a.tif").region((0, 0), 1024, 1024, level=0)
