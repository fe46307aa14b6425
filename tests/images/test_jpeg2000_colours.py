"""Colours of JPEG 2000: what the stream says of itself against what its file calls it."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from muse_core.images.jpeg2000_colours import is_still_ycbcr
from muse_core.slide import open_slide
from tests.data.make_slides import tissue_image

RESOLUTION = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}
# 64 x 64 px of RGB 200, 60, 120 in YCbCr, chroma halved along x as Aperio's scanners do it; by OpenJPEG 2.5.4.
HALVED_CHROMA = bytes.fromhex(
    "ff4fff51002f0000000000400000004000000000000000000000004000000040000000000000000000030701010702010702"
    "01ff52000c00000001000504040001ff5c00134040484850484850484850484850484850ff64002500014372656174656420"
    "6279204f70656e4a5045472076657273696f6e20322e352e34ff90000a00000000002f0001ff93c3e708088c4ebfc0f84201"
    "bfcfb40c027f1f808080808080808080808080808080ffd9"
)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(256, 256, mpp=0.5, seed=3)[0]


def coded(image: np.ndarray, *, ycbcr: bool = False, transform: bool = False, boxed: bool = False) -> bytes:
    samples = np.asarray(Image.fromarray(image).convert("YCbCr")) if ycbcr else image
    return imagecodecs.jpeg2k_encode(samples, level=0, mct=transform, codecformat="jp2" if boxed else "j2k")


@pytest.mark.parametrize(
    ("compression", "tag", "how"),
    [
        (33003, 2, {"ycbcr": True}),
        (33003, 6, {"ycbcr": True}),
        (33003, 2, {"transform": True}),  # the codestream undoes it itself
        (33005, 6, {}),
        (33005, 2, {"transform": True}),
        (34712, 6, {"ycbcr": True}),
        (34712, 6, {"transform": True}),
        (34712, 2, {"boxed": True}),
    ],
)
def test_what_a_stream_says_of_itself_beats_the_file(tmp_path, image, compression, tag, how):
    path = tmp_path / "a.tif"
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg2000", "metadata": None}
    tifffile.imwrite(path, iter([coded(image, **how)]), shape=image.shape, dtype=np.uint8, **options, **RESOLUTION)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(compression)
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(tag)
    with open_slide(path) as slide:
        found = slide.read_level(0, 0, 256, 256).astype(int)
    assert np.abs(found - image).max() <= 4


def test_halved_chroma_is_converted_by_the_decoder_and_not_again():
    assert not is_still_ycbcr(HALVED_CHROMA, said_to_be=True)
    np.testing.assert_allclose(imagecodecs.jpeg2k_decode(HALVED_CHROMA)[10, 10], (200, 60, 120), atol=2)


def test_a_file_that_says_rgb_is_believed(image):
    stream = coded(image, ycbcr=True)
    assert is_still_ycbcr(stream, said_to_be=True)
    assert not is_still_ycbcr(stream, said_to_be=False)
