"""The detector interface: names, checks, tiles without seams."""

import subprocess
import sys

import numpy as np
import pytest

from muse_core.detector.detect import (
    DEFAULT_MARGIN_UM,
    adapted,
    detect,
    detect_image,
    detect_in_core,
    load_detector,
    margin_um,
)
from muse_core.errors import ConfigError, DatasetError, MppError
from muse_core.geometry import Box

IMAGE = np.full((40, 60, 3), 200, np.uint8)


def dark_pixels(rgb, mpp):
    """Each black pixel is a nucleus at its centre."""
    rows, columns = np.nonzero(rgb.max(axis=2) == 0)
    return np.column_stack([columns + 0.5, rows + 0.5, np.full(len(rows), 0.9)]).astype(np.float32)


class Pale:
    """A class is instantiated before it is used."""

    margin_um = 5

    def __init__(self, name="fresh"):
        self.name = name

    def for_slide(self, tissue_rgb):
        return Pale(f"adapted to {len(tissue_rgb)}")

    def __call__(self, rgb, mpp):
        return np.empty((0, 3))


NOT_CALLABLE = 3


def test_names_of_detectors():
    assert load_detector("classical").margin_um > 0
    assert load_detector("none")(IMAGE, 0.5).shape == (0, 3)
    assert load_detector("tests.detector.test_detect:dark_pixels")(IMAGE * 0, 0.5).shape == (2400, 3)
    assert load_detector("tests.detector.test_detect.dark_pixels").__name__ == "dark_pixels"
    assert isinstance(
        load_detector("tests.detector.test_detect:Pale"), type(load_detector("tests.detector.test_detect.Pale"))
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clasical", "give one of classical, learned, none"),
        ("no_such_package.module:f", "No module named 'no_such_package'"),
        ("tests.detector.test_detect:missing", "has no attribute 'missing'"),
        ("tests.detector.test_detect:NOT_CALLABLE", "int is not callable"),
        ("", "cannot be loaded"),
        ("tests.detector.test_detect:", "cannot be loaded"),
    ],
)
def test_a_name_that_leads_nowhere(name, text):
    with pytest.raises(ConfigError, match=text):
        load_detector(name)


def test_interface_needs_no_torch():
    code = "import sys, muse_core.detector.detect, muse_core.detector.classical; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_adaptation_and_margin():
    tissue = np.zeros((7, 3), np.uint8)
    assert adapted(Pale(), tissue).name == "adapted to 7"
    assert adapted(dark_pixels, tissue) is dark_pixels
    assert (margin_um(Pale()), margin_um(dark_pixels)) == (5.0, DEFAULT_MARGIN_UM)


@pytest.mark.parametrize(
    ("image", "mpp", "error", "text"),
    [
        (IMAGE[..., 0], 0.5, DatasetError, r"shape \(40, 60\) and type uint8; RGB needed"),
        (np.dstack([IMAGE, IMAGE[..., :1]]), 0.5, DatasetError, r"\(40, 60, 4\)"),
        (IMAGE.astype(np.uint16), 0.5, DatasetError, "type uint16"),
        (IMAGE.astype(np.float32) / 255, 0.5, DatasetError, "type float32"),
        (IMAGE[:, :0], 0.5, DatasetError, "is empty"),
        (IMAGE, 0.0, MppError, "positive number"),
        (IMAGE, -0.5, MppError, "positive number"),
        (IMAGE, float("nan"), MppError, "positive number"),
    ],
)
@pytest.mark.parametrize("detector", [load_detector("none"), load_detector("classical")])
def test_images_that_are_not_images(image, mpp, error, text, detector):
    for call in (detect, detect_image):
        with pytest.raises(error, match=text):
            call(detector, image, mpp)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "returned an array of shape|returned NoneType"),
        ("nuclei", "returned str"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.zeros(3), r"shape \(3,\)"),
        ([[1, 2, 0.5], [3, 4]], "returned list"),
        (np.array([[1, np.nan, 0.5]]), "not finite"),
        (np.array([[61.0, 2, 0.5]]), "outside the 60 x 40 px image"),
        (np.array([[1, -0.1, 0.5]]), "outside"),
        (np.array([[1, 2, 1.5]]), "scores of 1.5 to 1.5"),
    ],
)
def test_what_a_detector_may_not_return(answer, text):
    with pytest.raises(DatasetError, match=text):
        detect(lambda rgb, mpp: answer, IMAGE, 0.5)


def test_what_a_detector_returns_comes_back_as_float32_of_its_own():
    kept = np.array([[60, 40, 1], [0, 0, 0]])  # the rim belongs to the image
    nuclei = detect(lambda rgb, mpp: kept, IMAGE, 0.5)
    assert nuclei.dtype == np.float32
    assert nuclei.tolist() == kept.tolist()
    nuclei[:] = 7
    assert kept.max() == 60
    assert detect(lambda rgb, mpp: np.empty((0, 3)), IMAGE, 0.5).shape == (0, 3)


def fixed(points):
    """A detector that finds these points of `IMAGE`, however far it was padded to the left and above."""

    def detector(rgb, mpp):
        down, right = np.subtract(rgb.shape[:2], IMAGE.shape[:2])
        return np.add(points, (right, down, 0))

    return detector


def test_core_is_half_open_and_its_own_frame():
    points = [[10, 5, 0.5], [30, 5, 0.5], [10, 25, 0.5], [29.5, 24.5, 0.5], [9.5, 5, 0.5]]
    nuclei = detect_in_core(fixed(points), IMAGE, 0.5, core=Box(10, 5, 20, 20))
    assert nuclei[:, :2].tolist() == [[0, 0], [19.5, 19.5]]


def test_neighbouring_cores_share_the_points_on_their_border():
    points = [[30, 7, 0.5], [12, 20, 0.5], [59, 39, 0.5]]
    boxes = [Box(x, y, 30, 20) for y in (0, 20) for x in (0, 30)]
    found = [len(detect_in_core(fixed(points), IMAGE, 0.5, core=box)) for box in boxes]
    assert found == [0, 1, 1, 1]


def test_cores_meet_one_grid_whatever_their_margin():
    corners = []

    def spy(rgb, mpp):
        rows, columns = np.nonzero(rgb.max(axis=2) == 0)
        corners.append((int(columns[-1]) % 48, int(rows[-1]) % 48))  # the others are mirrored
        return np.empty((0, 3))

    for margin in (0, 1, 31, 48, 62):
        image = np.full((margin + 20, margin + 20, 3), 200, np.uint8)
        image[margin, margin] = 0
        detect_in_core(spy, image, 0.5, core=Box(margin, margin, 20, 20))
    assert corners == [(0, 0)] * 5


@pytest.mark.parametrize("tile_px", [1, 48, 96, 4096])
def test_tiles_give_every_nucleus_once(tile_px):
    image = np.full((310, 257, 3), 200, np.uint8)
    rng = np.random.default_rng(1)
    image[rng.integers(0, 310, 400), rng.integers(0, 257, 400)] = 0
    whole, tiled = dark_pixels(image, 0.5), detect_image(dark_pixels, image, 0.5, tile_px=tile_px)
    assert sorted(whole.tolist()) == sorted(tiled.tolist())


def test_tiles_come_with_the_margin_and_on_one_grid():
    seen = []

    def spy(rgb, mpp):
        seen.append((rgb.shape[:2], rgb[0, 0, :2].tolist()))
        return np.empty((0, 3))

    image = np.zeros((300, 240, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(240), np.arange(300)[:, np.newaxis] // 2
    detect_image(spy, image, 0.5, tile_px=100)  # 16 µm are 32 px; tiles of 192 with a margin of 96
    assert [shape for shape, _ in seen] == [(288, 240), (288, 144), (204, 240), (204, 144)]
    assert [corner for _, corner in seen] == [[0, 0], [96, 0], [0, 48], [96, 48]]
