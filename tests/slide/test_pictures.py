"""Which pages of a TIFF are the slide: the largest, with levels of the same picture and nothing else."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from muse_core.errors import ConfigError, SlideReadError
from muse_core.slide import Slide, open_slide
from tests.data.make_slides import tissue_image

TILED = {"photometric": "rgb", "tile": (256, 256), "compression": "lzw", "metadata": None}
RESOLUTION = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(1700, 1300, mpp=0.5, seed=5)[0]


def smaller(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Averages of whole squares; what is left over at the right and bottom is dropped."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return smaller(image[: height * factor, : width * factor], width, height)


def padded(image: np.ndarray, tile: int = 256) -> np.ndarray:
    height, width = image.shape[:2]
    whole = np.full((-(-height // tile) * tile, -(-width // tile) * tile, 3), 255, np.uint8)
    whole[:height, :width] = image
    return whole


def write(path: Path, pages: Sequence[tuple[np.ndarray, dict[str, object]]]) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for page, options in pages:
            tiff.write(page, **TILED | RESOLUTION | options)
    return path


def downsamples(slide: Slide) -> list[float]:
    return [level.downsample_x for level in slide.info.levels]


def same_as_level_0(slide: Slide, image: np.ndarray) -> bool:
    """Whether every level shows the picture where its scale says: compared at the far corner."""
    height, width = image.shape[:2]
    for number, level in enumerate(slide.info.levels):
        side = 96
        x, y = level.width - side, level.height - side
        found = slide.read_level(x, y, side, side, level=number).astype(float)
        scale = level.downsample_x
        box = image[int(y * scale) : int((y + side) * scale), int(x * scale) : int((x + side) * scale)]
        expected = smaller(box, side, side).astype(float)
        if np.abs(found - expected).mean() > 6:
            return False
    return (slide.info.width_level0, slide.info.height_level0) == (width, height)


@pytest.mark.parametrize("factors", [(2, 4, 8), (3, 9), (4,)])
def test_levels_padded_to_whole_tiles_are_cut_and_scaled_by_whole_numbers(tmp_path, image, factors):
    lower = [(padded(shrunk(image, one)), {"subfiletype": 1}) for one in factors]
    with open_slide(write(tmp_path / "a.tif", [(image, {}), *lower])) as slide:
        assert downsamples(slide) == [1, *factors]
        assert same_as_level_0(slide, image)
        assert sum("padded to whole tiles" in one for one in slide.info.judgement) == len(factors)


def test_an_overview_that_comes_first_is_a_level(tmp_path, image):
    path = write(tmp_path / "a.tif", [(smaller(image, 425, 325), {}), (image, {}), (smaller(image, 850, 650), {})])
    with open_slide(path) as slide:
        assert downsamples(slide) == [1, 2, 4]
        assert same_as_level_0(slide, image)


@lru_cache(maxsize=1)
def _another_glass() -> np.ndarray:
    return tissue_image(900, 700, mpp=1.0, seed=99)[0][::-1]


def other_picture(width: int, height: int) -> np.ndarray:
    """A photograph of the glass, of the same colours."""
    return smaller(_another_glass(), width, height)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ((850, 650), "shows something else"),  # of the same sides
        ((600, 300), "times smaller across"),
        ((425, 325), "shows something else"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("flagged", [True, False])
def test_a_macro_is_no_level_wherever_it_stands_and_whatever_its_flag(tmp_path, image, other, words, first, flagged):
    macro = (other_picture(*other), {"subfiletype": int(flagged)})
    pages = [(image, {}), (smaller(image, 425, 325), {"subfiletype": 1})]
    pages = [macro, *pages] if first else [pages[0], macro, pages[1]]
    with open_slide(write(tmp_path / "a.tif", pages)) as slide:
        assert downsamples(slide) == [1, 4]
        assert same_as_level_0(slide, image)
        assert any(words in one or "scenes" in one for one in slide.info.judgement)


def test_a_level_that_was_cropped_is_none(tmp_path, image):
    path = write(tmp_path / "a.tif", [(image, {}), (smaller(image[100:, 150:], 850, 650), {"subfiletype": 1})])
    with open_slide(path) as slide:
        assert downsamples(slide) == [1]
        assert any("shows something else" in one for one in slide.info.judgement)


def test_levels_in_sub_directories_are_found_without_ome(tmp_path, image):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, subifds=2, **TILED, **RESOLUTION)
        for factor in (2, 4):
            tiff.write(smaller(image, 1700 // factor, 1300 // factor), subfiletype=1, **TILED)
    with open_slide(path) as slide:
        assert downsamples(slide) == [1, 2, 4]
        assert same_as_level_0(slide, image)


def test_several_scenes_are_said_and_chosen(tmp_path, image):
    second = np.ascontiguousarray(tissue_image(1500, 1100, mpp=0.5, seed=8)[0])
    pages = [(second, {}), (smaller(second, 375, 275), {}), (image, {}), (smaller(image, 425, 325), {})]
    path = write(tmp_path / "a.tif", pages)
    with open_slide(path) as slide:
        assert same_as_level_0(slide, image)
        assert any("2 scenes: 1 page 0 (1500 x 1100 px), 2 page 2" in one for one in slide.info.judgement)
    with open_slide(path, scene=1) as slide:
        assert downsamples(slide) == [1, 4]
        assert same_as_level_0(slide, second)
    with pytest.raises(ConfigError, match="scene 3 is not in the file, which has 2 scenes"):
        open_slide(path, scene=3)


@pytest.mark.parametrize("ome", [True, False])
def test_of_a_stack_the_plane_taken_is_said(tmp_path, image, ome):
    planes = [np.ascontiguousarray(np.roll(image, 40 * number, axis=1)) for number in range(3)]
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    if ome:
        metadata = {"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(np.stack(planes), **TILED | {"metadata": metadata})
    else:
        write(path, [(plane, {}) for plane in planes])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 1700, 1300), planes[0])
        said = "plane 1 of 3 is taken" if ome else "3 pages are of this size"
        assert any(said in one for one in slide.info.judgement)
    with open_slide(path, scene=3) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 1700, 1300), planes[2])


def ome_with_channels(path: Path, image: np.ndarray, channels: dict[str, object]) -> Path:
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": channels}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = TILED | {"photometric": "minisblack", "metadata": metadata}
        tiff.write(np.ascontiguousarray(np.moveaxis(image, 2, 0)), **options)
    return path


def test_red_green_and_blue_that_lie_apart_are_joined(tmp_path, image):
    path = ome_with_channels(tmp_path / "a.ome.tif", image, {"Name": ["Red", "Green", "Blue"]})
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(100, 50, 900, 700), image[50:750, 100:1000])


def test_other_channels_that_lie_apart_are_refused_by_name(tmp_path, image):
    path = ome_with_channels(tmp_path / "a.ome.tif", image, {"Name": ["DAPI", "FITC", "TRITC"]})
    with pytest.raises(SlideReadError, match=r"3 channels apart .*, as fluorescence does"):
        open_slide(path)


def test_levels_of_a_picture_that_is_padded_itself_are_found(tmp_path, image):
    """As Philips' files are without their description: every page is whole tiles, the largest too."""
    lower = [(padded(shrunk(image, one)), {"subfiletype": 1}) for one in (2, 4, 8)]
    with open_slide(write(tmp_path / "a.tif", [(padded(image), {}), *lower])) as slide:
        assert downsamples(slide) == [1, 2, 4, 8]


def altered(image: np.ndarray, how: str) -> np.ndarray:
    """A level of the right size that is not the picture."""
    half = shrunk(image, 2)
    if how in ("white below", "white at the right", "black"):
        half[slice(480, None) if how == "white below" else slice(None), 425 * ("right" in how) :] = 255 * (
            how != "black"
        )
        return half
    return np.ascontiguousarray(half[:, :, ::-1]) if how == "blue for red" else np.roll(half, 4, axis=1)


@pytest.mark.parametrize("how", ["white below", "white at the right", "black", "blue for red", "shifted by 4 px"])
def test_a_level_that_shows_another_picture_in_part_is_none_and_the_next_one_is(tmp_path, image, how):
    pages = [(image, {}), (altered(image, how), {"subfiletype": 1}), (shrunk(image, 4), {"subfiletype": 1})]
    with open_slide(write(tmp_path / "a.tif", pages)) as slide:
        assert downsamples(slide) == [1, 4]
        assert same_as_level_0(slide, image)


def test_levels_made_by_leaving_out_pixels_are_levels(tmp_path, image):
    lower = [(np.ascontiguousarray(image[::one, ::one]), {"subfiletype": 1, "compression": "jpeg"}) for one in (2, 8)]
    with open_slide(write(tmp_path / "a.tif", [(image, {}), *lower])) as slide:
        assert downsamples(slide) == pytest.approx([1, 2, 8], rel=0.01)


@pytest.mark.parametrize("said", [{"subfiletype": 9}, {"subfiletype": 1}, {"description": "Macro image 2200x1400"}])
def test_a_macro_that_is_larger_than_the_slide_is_not_the_slide(tmp_path, image, said):
    macro = np.full((1400, 2200, 3), 230, np.uint8)
    macro[500:800, 1500:1900] = smaller(image, 400, 300)
    path = write(tmp_path / "a.tif", [(macro, said | {"tile": None}), (image, {}), (shrunk(image, 2), {})])
    with open_slide(path) as slide:
        assert same_as_level_0(slide, image)
        assert downsamples(slide) == [1, 2]


def test_three_grey_pages_are_no_slide_unless_one_is_chosen(tmp_path, image):
    bands = np.ascontiguousarray(np.moveaxis(image[:300, :400], 2, 0))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, bands, photometric="minisblack", **RESOLUTION)
    with pytest.raises(SlideReadError, match="three grey pages of 400 x 300 px, which may be red, green and blue"):
        open_slide(path)
    with open_slide(path, scene=2) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 400, 300)[:, :, 0], bands[1])


def test_of_ome_images_of_one_size_each_has_its_own_scale(tmp_path, image):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for at, mpp in enumerate((1.0, 0.5)):
            metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            tiff.write(np.ascontiguousarray(image[at * 300 :][:300, :400]), **TILED | {"metadata": metadata})
    for scene, mpp in ((1, 1.0), (2, 0.5)):
        with open_slide(path, scene=scene) as slide:
            assert slide.info.mpp.x == mpp
