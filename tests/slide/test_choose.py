"""The reader is chosen by its pixels, and what no reader decodes is told in one line."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from muse_core.errors import ConfigError, MuseError, SlideReadError
from muse_core.slide import open_slide
from tests.data.make_slides import Drawing, break_tile, draw_aperio, draw_ome, draw_tiff, tissue_image

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"
slides = [pytest.mark.slides, pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides are not here")]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(900, 700, seed=3)[0]


def test_the_codecs_that_tell_damage_serve_and_another_reader_sees_the_same(tmp_path, image):
    with open_slide(draw_aperio(tmp_path / "a.svs", image)) as slide:
        assert (slide.info.reader, slide.info.vendor) == ("tifffile", "aperio")
        assert slide.info.reader_check == "equal to openslide on 6 regions"
        assert slide.info.decodes_on_gpu


@pytest.mark.parametrize("reader", ["cucim", "openslide", "tifffile"])
def test_each_reader_can_be_asked_for_and_gives_the_same_pixels(tmp_path, image, reader):
    path = draw_tiff(tmp_path / "a.tif", image)
    with open_slide(path, reader=reader) as slide, open_slide(path, reader="openslide") as reference:
        assert slide.info.reader == reader
        for level in range(3):
            size = slide.info.levels[level]
            ours = slide.read_level(0, 0, size.width, size.height, level=level)
            theirs = reference.read_level(0, 0, size.width, size.height, level=level)
            np.testing.assert_array_equal(ours, theirs)


def test_a_broken_tile_at_the_centre_does_not_cost_the_slide(tmp_path, image):
    path = draw_tiff(tmp_path / "a.tif", image, Drawing(factors=(1,)))
    break_tile(path, 1, 1, keep_bytes=1500)
    words = "tile 1, 1 of page 0 has no end of JPEG data"
    with open_slide(path) as slide, pytest.raises(SlideReadError, match=words):
        slide.read_level(300, 300, 50, 50)


def test_unknown_reader_names_the_known_ones(tmp_path, image):
    with pytest.raises(ConfigError, match="'bioformats' is unknown; one of auto, cucim, openslide, tifffile"):
        open_slide(draw_tiff(tmp_path / "a.tif", image), reader="bioformats")


def test_ome_tiff_with_subifds_opens_with_its_physical_size_and_all_its_levels(tmp_path, image):
    with open_slide(draw_ome(tmp_path / "a.ome.tif", image, Drawing(mpp=(0.2465, 0.263)))) as slide:
        assert (slide.info.mpp.x, slide.info.mpp.y, slide.info.mpp.source) == (0.2465, 0.263, "ome.PhysicalSizeX")
        assert slide.info.reader_check == "equal to openslide on 6 regions"
        assert [(level.width, level.height) for level in slide.info.levels] == [(900, 700), (225, 175), (56, 43)]
        quarter = slide.read_level(20, 10, 100, 80, level=1).astype(float)
        full = slide.read_level(80, 40, 400, 320).reshape(80, 4, 100, 4, 3).mean(axis=(1, 3))
        assert np.abs(quarter - full).mean() < 3
        assert len(list(slide.read_regions([(0, 0), (200, 100)], 50, 40, mpp=1.1))) == 2


def test_missing_file(tmp_path):
    with pytest.raises(SlideReadError, match="no such file") as caught:
        open_slide(tmp_path / "gone.svs")
    assert caught.value.reason == "not_found"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"II*\x00 and then nothing of use", "no reader decodes it"),
    ],
)
def test_files_that_are_no_slides(tmp_path, content, words):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    with pytest.raises(SlideReadError, match=words) as caught:
        open_slide(path)
    assert caught.value.reason == "unreadable"
    assert "\n" not in str(caught.value)


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(SlideReadError, match="is a folder"):
        open_slide(tmp_path)


def test_a_file_cut_short_is_refused_or_reads_only_what_is_there(tmp_path, image):
    path = draw_tiff(tmp_path / "a.tif", image, Drawing(factors=(1,)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 20])
    with pytest.raises(SlideReadError, match="no reader decodes it"):
        open_slide(path)


def break_next_page_offset(path: Path) -> None:
    """Let the first page of a little-endian classic TIFF name a next one that is not there; tifffile logs that."""
    data = bytearray(path.read_bytes())
    (page,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, page)
    struct.pack_into("<I", data, page + 2 + 12 * tags, 1 << 30)
    path.write_bytes(data)


def test_a_fresh_process_says_nothing_by_itself(tmp_path, image):
    """In a process of its own, for cuCIM complains of an absent GPU driver when it is first imported."""
    good, zstd = draw_aperio(tmp_path / "a.svs", image), tmp_path / "zstd.tif"
    odd = draw_tiff(tmp_path / "odd.tif", image, Drawing(factors=(1,)))
    break_next_page_offset(odd)
    tifffile.imwrite(zstd, image, tile=(256, 256), photometric="rgb", compression="zstd", metadata=None)
    code = (
        "import sys\nfrom muse_core.slide import open_slide\n"
        "for path in sys.argv[1:]:\n    open_slide(path, tolerate_missing_mpp=True).thumbnail(50)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, good, zstd, odd], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("name", "reader", "check"),
    [
        pytest.param(name, reader, check, marks=slides)
        for name, reader, check in [
            ("CMU-1-Small-Region.svs", "tifffile", "equal to openslide on 6 regions"),
            ("frozen-no-mpp.svs", "tifffile", "equal to openslide on 6 regions"),
            ("fluorescence.ndpi", "openslide", "openslide decodes a sample region"),
            ("camelyon-thumbnail.dcm", "openslide", "openslide decodes a sample region"),
            # Its JPEG tiles are YCbCr under a tag that says RGB: cuCIM would show green tissue.
            ("OS-1-detail.ome.tif", "tifffile", "tifffile decodes a sample region"),
        ]
    ],
)
def test_real_slides_get_the_reader_that_is_right(name, reader, check):
    with open_slide(SLIDES / "good" / name, tolerate_missing_mpp=True) as slide:
        assert slide.info.reader == reader
        assert slide.info.reader_check.startswith(check)


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        pytest.param(name, reason, words, marks=slides)
        for name, reason, words in [
            ("broken.svs", "unreadable", "Unsupported or missing image file"),
            ("ezwsi_no_levels.dcm", "unreadable", "No pyramid levels found"),
            ("grey10kx5k.tif", "mpp_missing", "print setting"),
            ("lfs_pointer.ndpi", "unreadable", "git lfs pull"),
            ("sm_image_grayscale.dcm", "unreadable", "BitsAllocated value 16"),
            ("unopenable.tiff", "unreadable", "52479"),
            ("unreadable.svs", "unreadable", "Bogus marker length"),
            ("yb10kx5k.zstd.tiff", "mpp_missing", "352.858 is a print setting"),
            ("zero_gi.tif", "unreadable", "no reader decodes it"),
        ]
    ],
)
def test_real_bad_slides_give_one_clear_line(name, reason, words, capfd):
    with pytest.raises(MuseError, match=words) as caught:
        open_slide(SLIDES / "bad" / name)
    assert caught.value.reason == reason
    assert str(SLIDES / "bad" / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [pytest.param("😐.svs", marks=slides)])
def test_a_tiny_slide_with_an_odd_name_reads(name):
    with open_slide(SLIDES / "bad" / name) as slide:
        assert slide.read_region(0, 0, 16, 16, mpp=0.499).shape == (16, 16, 3)
