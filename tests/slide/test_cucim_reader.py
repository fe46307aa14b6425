"""What is given to cuCIM: only what it was seen to decode, for some files kill the process."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile

from muse_core.slide import open_slide
from muse_core.slide.cucim_reader import cucim_refusal
from muse_core.slide.tiff_pages import read_tiff_facts
from tests.data.make_slides import tissue_image

RESOLUTION = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(700, 600, seed=3)[0]


@pytest.mark.parametrize("compression", ["deflate", "adobe_deflate", "zstd", "lzma"])
@pytest.mark.parametrize("page", [0, 1])
def test_predictors_that_kill_it_never_reach_it(tmp_path, image, compression, page):
    """In a process of its own: where it fails, it takes the process along."""
    path = tmp_path / "a.tif"
    kept = {"tile": (256, 256), "photometric": "rgb", "compression": "lzw", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for index, factor in enumerate((1, 2)):
            killing = {"compression": compression, "predictor": 2} if index == page else {}
            tiff.write(np.ascontiguousarray(image[::factor, ::factor]), **kept | killing, **RESOLUTION)
    code = (
        "import sys\nfrom muse_core.slide import open_slide\n"
        "with open_slide(sys.argv[1]) as slide:\n    print(slide.info.reader, slide.read_level(0, 0, 700, 600).sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    reader, total = done.stdout.split()
    assert reader != "cucim"
    assert int(total) == int(image.sum())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compression": "deflate", "predictor": 2, "tile": (256, 256)}, "does not bear deflate with predictor 2"),
        ({"compression": "lzw", "rowsperstrip": 64}, "decodes no strips"),
        ({"compression": "webp", "tile": (256, 256)}, "decodes no WebP of RGB"),
        ({"compression": "lzw", "photometric": "ycbcr", "tile": (256, 256)}, "decodes no LZW of YCbCr"),
    ],
)
def test_what_it_does_not_decode_is_said(tmp_path, image, options, words):
    tifffile.imwrite(tmp_path / "a.tif", image, **{"photometric": "rgb", "metadata": None} | options)
    facts = read_tiff_facts(tmp_path / "a.tif")
    assert words in cucim_refusal(facts, facts.pages)


def test_lzw_with_a_predictor_is_read_by_it_where_it_is_asked_for(tmp_path, image):
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "lzw", "predictor": 2, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", image, **options, **RESOLUTION)
    with open_slide(tmp_path / "a.tif", reader="cucim") as slide:
        assert slide.info.reader == "cucim"
        np.testing.assert_array_equal(slide.read_level(0, 0, 700, 600), image)
