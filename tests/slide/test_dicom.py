"""DICOM slides: a level a file, and frames that are not what the header says."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from muse_core.errors import MppError, SlideChangedError, SlideReadError
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


def change(path: Path, **values: object) -> Path:
    """Set elements of a file by their names."""
    found = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(found, name, value)
    found.save_as(path)
    return path


def frames_of(path: Path) -> np.ndarray:
    return np.frombuffer(pydicom.dcmread(path).PixelData, np.uint8).reshape(-1, 256, 256, 3)


def sparse(path: Path, order: Sequence[int], columns: int) -> Path:
    """Some of a file's tiles, in some order, each with its place."""
    frames, places = frames_of(path), []
    for tile in order:
        place, item = Dataset(), Dataset()
        place.RowPositionInTotalImagePixelMatrix = tile // columns * 256 + 1
        place.ColumnPositionInTotalImagePixelMatrix = tile % columns * 256 + 1
        place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = "0"
        place.ZOffsetInSlideCoordinateSystem = "0"
        item.PlanePositionSlideSequence = [place]
        places.append(item)
    return change(
        path,
        DimensionOrganizationType="TILED_SPARSE",
        PerFrameFunctionalGroupsSequence=places,
        PixelData=frames[list(order)].tobytes(),
        NumberOfFrames=str(len(order)),
    )


def test_sparse_tiles_lie_where_they_say_and_those_left_out_are_glass(tmp_path, image):
    path = sparse(write_level(tmp_path / "a.dcm", 800, 600, image=image), [5, 3, 1, 0, 2, 11, 10, 8, 9, 7, 4], 4)
    expected = image.copy()
    expected[256:512, 512:768] = 255  # tile 6
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 800, 600), expected)


def parts_of(path: Path, cuts: Sequence[int]) -> list[Path]:
    """A level in several files, as scanners cut those that grow too large."""
    frames, parts = frames_of(path), []
    for number, (first, last) in enumerate(pairwise(cuts)):
        part = path.with_name(f"part-{number}.dcm")
        part.write_bytes(path.read_bytes())
        uid = f"{pydicom.dcmread(path).SOPInstanceUID}.{number + 5}"
        of_whole = {"ConcatenationUID": "1.2.826.0.1.3680043.10.999.77", "InConcatenationTotalNumber": len(cuts) - 1}
        of_part = {"InConcatenationNumber": number + 1, "ConcatenationFrameOffsetNumber": first, "SOPInstanceUID": uid}
        pixels = {"PixelData": frames[first:last].tobytes(), "NumberOfFrames": str(last - first)}
        parts.append(change(part, **of_whole, **of_part, **pixels))
    path.unlink()
    return parts


def test_a_level_in_several_files_is_one_and_all_are_needed(tmp_path, image):
    parts = parts_of(write_level(tmp_path / "a.dcm", 800, 600, image=image), [0, 5, 9, 12])
    for part in parts:
        with open_slide(part) as slide:
            np.testing.assert_array_equal(slide.read_level(0, 0, 800, 600), image)
    for part in parts[1:]:
        part.unlink()
    with pytest.raises(SlideReadError, match="one of 3 parts of a level; all of them are needed beside it"):
        open_slide(parts[0])


def test_a_series_may_lack_a_level(tmp_path, image):
    for index in (0, 2):
        size = (800 >> index, 600 >> index)
        level = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        write_level(tmp_path / f"{index}.dcm", *size, image=level, index=index, mpp=0.5 * 2**index)
    with open_slide(tmp_path / "2.dcm") as slide:
        assert [level.downsample_x for level in slide.info.levels] == [1, 4]
        np.testing.assert_array_equal(slide.read_level(0, 0, 800, 600), image)
    (tmp_path / "0.dcm").unlink()
    with open_slide(tmp_path / "2.dcm") as slide:  # what is left is read, and what is missing said
        assert slide.info.mpp.x == pytest.approx(2.0)
        assert any("the original level is not among the files" in one for one in slide.info.judgement)


@pytest.mark.parametrize("kind", ["LABEL", "OVERVIEW", "THUMBNAIL"])
def test_a_folder_of_small_pictures_holds_no_slide(tmp_path, image, kind):
    path = change(
        write_level(tmp_path / "a.dcm", 800, 600, image=image), ImageType=["ORIGINAL", "PRIMARY", kind, "NONE"]
    )
    with pytest.raises(SlideReadError, match=f"it is the {kind.lower()} of a slide, and no level"):
        open_slide(path)


def test_the_size_of_what_was_imaged_is_held_against_the_pixels_and_never_believed_alone(tmp_path, image):
    path = change(write_level(tmp_path / "a.dcm", 800, 600, image=image), ImagedVolumeWidth=0.8, ImagedVolumeHeight=0.6)
    with pytest.raises(MppError, match=r"by 100%: openslide\.mpp-x = 0.5 and dicom\.ImagedVolumeWidth = 1;") as caught:
        open_slide(path)
    assert caught.value.reason == "mpp_conflict"
    with open_slide(change(path, ImagedVolumeHeight=0.3)) as slide:  # no square pixels: of another area
        assert slide.info.mpp.x == pytest.approx(0.5)
    measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence
    measures[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]
    with pytest.raises(MppError, match=r"dicom\.ImagedVolumeWidth = 1 is not believed alone"):
        open_slide(change(path, SharedFunctionalGroupsSequence=measures, ImagedVolumeHeight=0.6))


@pytest.mark.parametrize("claims", [{"TotalPixelMatrixColumns": 600}, {"NumberOfFrames": "7"}])
def test_frames_that_do_not_make_the_picture_are_refused(tmp_path, image, claims):
    with pytest.raises(SlideReadError, match="which lies where is not known"):
        open_slide(change(write_level(tmp_path / "a.dcm", 800, 600, image=image), **claims))


def test_a_slide_whose_series_is_a_larger_slides_is_not_taken_for_it(tmp_path, image):
    larger = tissue_image(1000, 900, mpp=0.5, seed=9)[0]
    write_level(tmp_path / "b.dcm", 1000, 900, image=larger, index=7)
    with pytest.raises(SlideReadError, match="800 x 600 px, and no level of the slide of 1000 x 900 px"):
        open_slide(write_level(tmp_path / "a.dcm", 800, 600, image=image))


def test_frames_of_several_colours_and_ycbcr_that_nothing_calls_so_are_refused(tmp_path, image):
    path = write_level(tmp_path / "a.dcm", 800, 600, image=image, jpeg=True, photometric="YBR_FULL_422")
    frames = list(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=12))
    stream = io.BytesIO()
    Image.fromarray(image[:256, :256]).save(stream, "JPEG", keep_rgb=True)
    change(path, PixelData=encapsulate([*frames[:5], stream.getvalue(), *frames[6:]]))
    with pytest.raises(SlideReadError, match="would take RGB and YCbCr frames alike"):
        open_slide(path)
    bare = [frame[:2] + frame[4 + int.from_bytes(frame[4:6], "big") :] for frame in frames]  # without JFIF's marker
    change(path, PixelData=encapsulate(bare), PhotometricInterpretation="RGB")
    with pytest.raises(SlideReadError, match="its colours are YCbCr that nothing in the file calls so"):
        open_slide(path)


def test_planes_in_focus_are_said_or_refused_by_name(tmp_path, image):
    path = write_level(tmp_path / "a.dcm", 800, 600, image=image)
    change(path, PixelData=pydicom.dcmread(path).PixelData * 3, NumberOfFrames="36")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 800, 600), image)
        assert any(one.startswith("3 planes in focus (z)") for one in slide.info.judgement)
    with pytest.raises(SlideReadError, match=r"holds 3 planes in focus \(z\), and slides of one are read"):
        open_slide(change(path, TotalPixelMatrixFocalPlanes=3))


def test_a_file_of_the_series_that_changes_is_noticed(tmp_path, image):
    half = np.asarray(cv2.resize(image, (400, 300), interpolation=cv2.INTER_AREA), np.uint8)
    first = write_level(tmp_path / "0.dcm", 800, 600, image=image)
    second = write_level(tmp_path / "1.dcm", 400, 300, image=half, index=1, mpp=1.0)
    with open_slide(first) as slide:
        slide.read_level(0, 0, 10, 10)
        second.write_bytes(second.read_bytes() + b"\0\0")
        with pytest.raises(SlideChangedError, match=r"1\.dcm: changes while it is read"):
            slide.read_level(0, 0, 10, 10)
