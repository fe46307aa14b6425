"""The compressed tiles are the file's own bytes, and decode to the slide's pixels."""

import errno
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from muse_core.errors import SlideReadError
from muse_core.slide import open_slide
from muse_core.slide.jpeg_tiles import JpegTiles, open_jpeg_tiles
from muse_core.slide.tiff_pages import read_tiff_facts
from tests.data.make_slides import break_tile, draw_aperio, draw_ome, draw_tiff, tissue_image

GOOD = Path(__file__).parents[3] / "shared" / "data" / "slides" / "good"
slides = [pytest.mark.slides, pytest.mark.skipif(not GOOD.is_dir(), reason="the real slides are not here")]


def decoded(tiles: JpegTiles, tile_x: int, tile_y: int) -> np.ndarray:
    """A tile as a decoder that trusts `photometric` sees it."""
    space = "YCBCR" if tiles.photometric == 6 else "RGB"
    data = tiles.read_tile(tile_x, tile_y)
    return imagecodecs.jpeg8_decode(data, tables=tiles.jpegtables, colorspace=space, outcolorspace="RGB")


@pytest.mark.parametrize("draw", [draw_aperio, draw_tiff, draw_ome])
@pytest.mark.parametrize("level", [0, 1])
def test_tiles_of_drawn_slides_decode_to_their_pixels(tmp_path, draw, level):
    path = draw(tmp_path / "a.tif", tissue_image(1000, 700, seed=2)[0])
    with open_slide(path, reader="tifffile") as slide:
        tiles = slide.jpeg_tiles(level)
        size = slide.info.levels[level]
        assert (tiles.tile_width, tiles.tile_height) == (240, 240)
        assert (tiles.tiles_x, tiles.tiles_y) == (-(-size.width // 240), -(-size.height // 240))
        np.testing.assert_array_equal(decoded(tiles, 0, 0)[:170, :240], slide.read_level(0, 0, 240, 170, level=level))
        tiles.close()


def test_there_is_no_tile_outside_the_grid(tmp_path):
    with open_slide(draw_tiff(tmp_path / "a.tif", tissue_image(500, 500)[0])) as slide:
        tiles = slide.jpeg_tiles()
        for tile in ((3, 0), (0, 3), (-1, 0)):
            with pytest.raises(SlideReadError, match="in a grid of 3 x 3"):
                tiles.read_tile(*tile)
        tiles.close()


@pytest.mark.parametrize(
    ("name", "photometric", "subsampling"),
    [
        pytest.param("CMU-1-Small-Region.svs", 2, None, marks=slides),
        # The tag says RGB, the tiles are JFIF and so YCbCr.
        pytest.param("OS-1-detail.ome.tif", 6, (2, 2), marks=slides),
    ],
)
def test_tiles_of_real_slides(name, photometric, subsampling):
    with open_slide(GOOD / name) as slide:
        tiles = slide.jpeg_tiles()
        assert (tiles.photometric, tiles.subsampling) == (photometric, subsampling)
        width, height = tiles.tile_width, tiles.tile_height
        ours = slide.read_level(width, height, width, height)
        assert np.abs(decoded(tiles, 1, 1).astype(int) - ours).max() <= 1
        tiles.close()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=slides) for name in ("frozen-no-mpp.svs", "fluorescence.ndpi", "camelyon-thumbnail.dcm")],
)
def test_other_codings_have_none(name):
    with open_slide(GOOD / name, tolerate_missing_mpp=True) as slide:
        tiles = slide.jpeg_tiles()
        assert tiles is None


@pytest.mark.parametrize(
    ("keep_bytes", "words"),
    [(0, "does not begin as JPEG"), (40, "has a broken JPEG header"), (700, "has no end of JPEG data")],
)
def test_a_broken_tile_is_not_handed_out(tmp_path, keep_bytes, words):
    path = draw_tiff(tmp_path / "a.tif", tissue_image(500, 500)[0])
    break_tile(path, 1, 0, keep_bytes=keep_bytes)
    with open_slide(path) as slide:
        tiles = slide.jpeg_tiles()
        assert tiles.read_tile(0, 0)
        with pytest.raises(SlideReadError, match=f"tile 1, 0 {words}"):
            tiles.read_tile(1, 0)
        tiles.close()


def test_a_slide_that_cannot_be_read_is_named_and_leaves_no_handle(tmp_path, monkeypatch):
    path = draw_tiff(tmp_path / "a.tif", tissue_image(500, 500)[0])
    page = read_tiff_facts(path).pages[0]
    n_open = len(list(Path("/proc/self/fd").iterdir()))

    def stale(*_: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    tiles = open_jpeg_tiles(path, page)
    with monkeypatch.context() as patch:
        patch.setattr("os.pread", stale)
        with pytest.raises(SlideReadError, match=r"a\.tif: Stale file handle"):
            tiles.read_tile(0, 0)
        with pytest.raises(SlideReadError, match=r"a\.tif: Stale file handle"):
            open_jpeg_tiles(path, page)
    tiles.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
