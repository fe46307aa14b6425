"""JPEG files: the pixels that Pillow gives where they are sound, a line where they are not."""

import io

import numpy as np
import pytest
from PIL import Image

from muse_core.errors import DatasetError, SlideReadError
from muse_core.images.decode import read_rgb
from muse_core.images.strict_jpeg import decode_file_strictly
from muse_core.slide import open_slide
from tests.data.make_slides import tissue_image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(320, 240, mpp=0.5, seed=1)[0]


def jpeg(image: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "options",
    [{"quality": 90}, {"quality": 60, "subsampling": 2}, {"progressive": True}, {"optimize": True}, {"keep_rgb": True}],
)
@pytest.mark.parametrize("behind", [b"", b"\0" * 500, b"a trailer of some camera" * 20])
def test_sound_files_are_as_pillow_has_them(tmp_path, image, options, behind):
    (tmp_path / "a.jpg").write_bytes(jpeg(image, **options) + behind)
    with Image.open(tmp_path / "a.jpg") as opened:
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), np.asarray(opened))


def test_grey_becomes_colour(tmp_path, image):
    (tmp_path / "a.jpg").write_bytes(jpeg(image[:, :, 1]))
    with Image.open(tmp_path / "a.jpg") as opened:
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), np.asarray(opened.convert("RGB")))


def damaged(data: bytes, how: str) -> bytes:
    at = len(data) * 2 // 3
    if how == "cut":
        return data[:at]
    if how == "zeros":
        return data[:at] + bytes(512) + data[at + 512 :]
    if how == "noise":
        return data[:at] + np.random.default_rng(1).bytes(512) + data[at + 512 :]
    return data[:at] + data[at + 300 :]  # a piece is missing


@pytest.mark.parametrize("how", ["cut", "zeros", "noise", "missing"])
def test_damage_is_told_to_slides_and_to_labels(tmp_path, image, how):
    path = tmp_path / "a.jpg"
    path.write_bytes(damaged(jpeg(image, quality=95), how))
    with pytest.raises(DatasetError, match=r"a\.jpg: damaged or not whole"):
        read_rgb(path)
    with pytest.raises(SlideReadError, match=r"a\.jpg: "):
        open_slide(path, mpp_override=0.5)


def test_bytes_left_over_are_damage_save_where_they_are_padding(image):
    data = jpeg(image, quality=90)
    assert decode_file_strictly(data[:-2] + bytes(40) + data[-2:], "RGB").shape == image.shape
    with pytest.raises(ValueError, match="extraneous bytes"):
        decode_file_strictly(data[:-2] + bytes(range(1, 200)) + data[-2:], "RGB")


@pytest.mark.parametrize("options", [{"quality": 90}, {"progressive": True}])
def test_what_follows_the_picture_is_no_part_of_it(image, options):
    """Zeros and an end of their own, such as a film's or a second picture's."""
    data = jpeg(image, **options)
    whole = decode_file_strictly(data, "RGB")
    for behind in (bytes(128) + b"\xff\xd9", bytes(8) + b"\xff\x01" + bytes(300) + data):
        np.testing.assert_array_equal(decode_file_strictly(data + behind, "RGB"), whole)
