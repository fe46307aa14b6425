"""DICOM slides: a level a file, and frames that are not what the header says."""

import cv2
import numpy as np
import pytest

from muse_core.errors import SlideReadError
from muse_core.slide import open_slide
from muse_core.slide.dicom import contradicted_colours
from tests.data.make_dicom import write_level
from tests.data.make_slides import tissue_image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(800, 600, mpp=0.5, seed=3)[0]


@pytest.mark.parametrize("opened", [0, 1])
def test_every_file_of_a_series_opens_the_whole_slide(tmp_path, image, opened):
    half = np.asarray(cv2.resize(image, (400, 300), interpolation=cv2.INTER_AREA), np.uint8)
    files = [
        write_level(tmp_path / "0.dcm", 800, 600, image=image),
        write_level(tmp_path / "1.dcm", 400, 300, image=half, index=1, mpp=1.0),
    ]
    with open_slide(files[opened]) as slide:
        assert [level.downsample_x for level in slide.info.levels] == [1, 2]
        assert slide.info.mpp.x == pytest.approx(0.5)
        np.testing.assert_array_equal(slide.read_level(0, 0, 800, 600), image)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_a_jpeg_frames_own_word_on_its_colours_beats_the_header(tmp_path, image, photometric):
    path = write_level(tmp_path / "a.dcm", 800, 600, image=image, jpeg=True, photometric=photometric)
    assert contradicted_colours(path) == ("ycbcr" if photometric == "RGB" else None)
    with open_slide(path) as slide:
        assert np.abs(slide.read_level(0, 0, 800, 600).astype(int) - image).mean() < 2


def test_a_level_that_shows_something_else_is_none(tmp_path, image):
    other = np.asarray(cv2.resize(image[::-1, ::-1], (400, 300), interpolation=cv2.INTER_AREA), np.uint8)
    write_level(tmp_path / "1.dcm", 400, 300, image=other, index=1, mpp=1.0)
    with open_slide(write_level(tmp_path / "0.dcm", 800, 600, image=image)) as slide:
        assert [level.downsample_x for level in slide.info.levels] == [1]
        assert any("shows something else" in one for one in slide.info.judgement)


def test_what_openslide_does_not_decode_is_refused(tmp_path, image):
    path = write_level(tmp_path / "a.dcm", 800, 600, image=image, jpeg=True, photometric="YBR_FULL")
    with pytest.raises(SlideReadError, match="photometric interpretation YBR_FULL"):
        open_slide(path)
