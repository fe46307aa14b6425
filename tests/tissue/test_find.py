"""Tissue of whole slides, drawn and real: overview, focus, polygons."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from shapely import Polygon
from skimage.data import immunohistochemistry

from muse_core.cli.demo import DEMO_PX
from muse_core.errors import TissueError
from muse_core.geometry import Frame
from muse_core.slide import open_slide
from muse_core.slide.drawn import _draw, draw_slide
from muse_core.tissue import Overview, Tissue, TissueSettings, find_tissue, read_overview, tissue_area_mm2
from muse_core.tissue.focus import blurred_mask, focus_of

SETTINGS = TissueSettings()
MPP = 8.0
GLASS = (243, 240, 242)
SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides" / "good"
IDENTITY = Frame(0.0, 0.0, 1.0, 1.0)


class TestFocus:
    @pytest.mark.parametrize("corner", [(0, 0), (0, 128), (128, 0), (128, 128)])
    def test_blur_lowers_it_below_the_least(self, corner):
        y, x = corner
        at_1um = cv2.resize(immunohistochemistry(), (256, 256), interpolation=cv2.INTER_AREA)[y : y + 128, x : x + 128]
        assert focus_of(at_1um) > 1.5 * SETTINGS.min_focus
        assert focus_of(cv2.GaussianBlur(at_1um, (0, 0), 3.0)) < SETTINGS.min_focus

    def test_does_not_depend_on_the_amount_of_stain(self):
        window = cv2.resize(immunohistochemistry(), (256, 256), interpolation=cv2.INTER_AREA)
        pale = (255 * (window / 255.0) ** 0.3).astype(np.uint8)
        assert focus_of(pale) == pytest.approx(focus_of(window), rel=0.2)

    def test_blurred_half_is_refused(self):
        sharp = cv2.resize(immunohistochemistry(), (256, 256), interpolation=cv2.INTER_AREA)[:128, :128]
        soft = cv2.GaussianBlur(sharp, (0, 0), 4.0)
        mask = blurred_mask(np.ones((128, 256), bool), MPP, lambda x, y: soft if x > 1024 else sharp, SETTINGS)
        assert not mask[:, :128].any()
        assert mask[:, 128:].all()

    def test_one_soft_window_among_sharp_ones_is_kept(self):
        sharp = cv2.resize(immunohistochemistry(), (256, 256), interpolation=cv2.INTER_AREA)[:128, :128]
        soft = cv2.GaussianBlur(sharp, (0, 0), 4.0)

        def read(x_um: float, y_um: float) -> np.ndarray:
            return soft if abs(x_um - 640) < 10 and abs(y_um - 640) < 10 else sharp

        assert not blurred_mask(np.ones((160, 160), bool), MPP, read, SETTINGS).any()

    def test_number_of_windows_is_bounded(self):
        calls = []
        window = np.zeros((128, 128, 3), np.uint8)
        settings = TissueSettings(max_focus_windows=50)
        blurred_mask(np.ones((1000, 700), bool), MPP, lambda x, y: calls.append((x, y)) or window, settings)
        assert 20 <= len(calls) <= 50
        assert all(0 < x < 700 * MPP and 0 < y < 1000 * MPP for x, y in calls)


class TestOverview:
    def test_reduced_is_the_mean_of_blocks_with_their_frame(self):
        rgb = np.random.default_rng(0).integers(0, 256, (7, 10, 3), np.uint8)
        small = Overview(rgb, 4.0, Frame(0.0, 0.0, 16.0, 8.0)).reduced(8.0)
        assert (small.mpp, small.frame) == (8.0, Frame(0.0, 0.0, 32.0, 16.0))
        assert small.rgb.shape == (4, 5, 3)
        blocks = rgb[:6].reshape(3, 2, 5, 2, 3).mean(axis=(1, 3))
        assert np.abs(small.rgb[:3] - blocks).max() <= 0.5
        assert np.abs(small.rgb[3] - rgb[6].reshape(5, 2, 3).mean(axis=1)).max() <= 0.5

    @pytest.mark.parametrize(("wanted", "got"), [(4.0, 4.0), (1.0, 4.0), (5.9, 4.0), (6.1, 8.0), (13.0, 12.0)])
    def test_reduced_by_whole_factors_only(self, wanted, got):
        overview = Overview(np.zeros((9, 9, 3), np.uint8), 4.0, IDENTITY)
        assert overview.reduced(wanted).mpp == got

    def test_one_that_is_given_is_not_read_again_and_gives_the_same_tissue(self, drawn_slide):
        with open_slide(drawn_slide, mpp_override=0.5) as slide:
            read = find_tissue(slide, SETTINGS)
            overview = read_overview(slide, 4.0, max_px=4096)
            slide.read_overview = None  # would raise
            given = find_tissue(slide, SETTINGS, overview=overview)
        first, second = shapely.union_all(read.polygons), shapely.union_all(given.polygons)
        assert first.intersection(second).area / first.union(second).area > 0.99

    def test_longest_side_is_bounded(self, drawn_slide):
        with open_slide(drawn_slide, mpp_override=0.5) as slide:
            overview = read_overview(slide, 4.0, max_px=100)
        assert overview.rgb.shape == (75, 100, 3)
        assert overview.frame.scale_x == 40.0


def write_slide(path: Path, image: np.ndarray) -> Path:
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), compression="jpeg", compressionargs={"level": 90})
    return path


@pytest.fixture(scope="module")
def drawn_slide(tmp_path_factory) -> Path:
    """4000 x 3000 px at 0.5 µm/px: IHC tissue at x 800..2848, y 500..2548, its right half out of focus."""
    image = np.full((3000, 4000, 3), GLASS, np.uint8)
    tissue = np.tile(immunohistochemistry()[:256, :256], (8, 8, 1))
    tissue[:, 1024:] = cv2.GaussianBlur(tissue, (0, 0), 8.0)[:, 1024:]
    image[500:2548, 800:2848] = tissue
    return write_slide(tmp_path_factory.mktemp("tissue") / "drawn.tif", image)


class TestFindTissue:
    def test_sharp_half_is_found_and_the_blurred_recorded(self, drawn_slide):
        with open_slide(drawn_slide, mpp_override=0.5) as slide:
            tissue = find_tissue(slide, SETTINGS)
        left, right = shapely.box(800, 500, 1824, 2548), shapely.box(1824, 500, 2848, 2548)
        found = shapely.union_all(tissue.polygons)
        assert found.intersection(left).area / left.area > 0.8  # the grid's cells are 512 px
        assert found.intersection(right).area / right.area < 0.3
        assert tissue.refused_mm2["blur"] == pytest.approx(right.area * 0.25e-6, rel=0.35)
        assert tissue.background == pytest.approx(GLASS, abs=2)

    def test_without_the_focus_check_all_of_it_is(self, drawn_slide):
        with open_slide(drawn_slide, mpp_override=0.5) as slide:
            tissue = find_tissue(slide, TissueSettings(min_focus=0))
            mpp = slide.info.mpp
        assert tissue_area_mm2(tissue, mpp.x, mpp.y) == pytest.approx((2048 * 0.5e-3) ** 2, rel=0.05)
        truth = shapely.box(800, 500, 2848, 2548)
        found = shapely.union_all(tissue.polygons)
        assert found.intersection(truth).area / found.union(truth).area > 0.95

    def test_pixels_that_are_not_square(self, tmp_path):
        image = np.full((1000, 3000, 3), GLASS, np.uint8)
        image[200:700, 600:2600] = np.tile(immunohistochemistry()[:125, :250], (4, 8, 1))
        path = tmp_path / "oblong.ome.tif"
        sizes = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 1.5}
        tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), metadata=sizes)
        with open_slide(path) as slide:
            tissue = find_tissue(slide, TissueSettings(min_focus=0))
            mpp = slide.info.mpp
        assert (mpp.x, mpp.y) == (0.5, 1.5)
        assert shapely.union_all(tissue.polygons).bounds == pytest.approx((600, 200, 2600, 700), abs=32)
        assert tissue_area_mm2(tissue, mpp.x, mpp.y) == pytest.approx(1.0 * 0.75, rel=0.05)

    def test_drawn_fragments_are_covered_pale_stroma_and_all(self, tmp_path):
        draw_slide(tmp_path / "demo.svs", *DEMO_PX)
        with open_slide(tmp_path / "demo.svs") as slide:
            tissue = find_tissue(slide, SETTINGS)
        found = rasterised(tissue, *DEMO_PX)
        truth = demo_truth(*DEMO_PX)
        assert (found & truth).sum() / truth.sum() > 0.98
        assert (found & ~truth).sum() / found.sum() < 0.02
        assert len(tissue.polygons) == 2
        assert tissue.refused_mm2 == {}

    def test_dark_background_has_none(self, tmp_path):
        image = np.zeros((512, 512, 3), np.uint8)
        image[100:140, 100:140] = (30, 40, 250)
        path = write_slide(tmp_path / "dapi.tif", image)
        with (
            open_slide(path, mpp_override=0.5) as slide,
            pytest.raises(TissueError, match="looks like fluoresc") as caught,
        ):
            find_tissue(slide, SETTINGS)
        assert caught.value.reason == "no_tissue"

    def test_grey_slide_has_none_and_says_what_there_is(self, tmp_path):
        image = np.full((1024, 1024, 3), 240, np.uint8)
        image[200:800, 200:800] = 120
        path = write_slide(tmp_path / "grey.tif", image)
        with open_slide(path, mpp_override=1.0) as slide, pytest.raises(TissueError, match="neutral") as caught:
            find_tissue(slide, SETTINGS)
        assert caught.value.reason == "no_tissue"
        assert "grey.tif" in str(caught.value)


def demo_truth(width: int, height: int) -> np.ndarray:
    """Where draw_slide puts tissue, from the slide it draws on a carpet of black; bool (height / 4, width / 4)."""
    carpet = np.zeros((16, 16, 3), np.uint8)
    return _draw(carpet, np.arange(height // 4), np.arange(width // 4), 4, (height, width))[..., 0] == 0


def rasterised(tissue: Tissue, width: int, height: int) -> np.ndarray:
    mask = np.zeros((height // 4, width // 4), np.uint8)
    for polygon in tissue.polygons:
        cv2.fillPoly(mask, [(np.asarray(ring.coords) / 4 - 0.5).round().astype(np.int32) for ring in rings(polygon)], 1)
    return mask > 0


def rings(polygon: Polygon) -> list:
    return [polygon.exterior, *polygon.interiors]


@pytest.mark.slides
@pytest.mark.skipif(not SLIDES.exists(), reason="the real slides are not here")
class TestRealSlides:
    @pytest.mark.parametrize(
        ("name", "mpp", "least_mm2", "most_mm2"),
        [
            ("CMU-1-Small-Region.svs", None, 0.55, 0.75),
            ("frozen-no-mpp.svs", 0.5, 2.4, 2.8),
            ("OS-1-detail.ome.tif", None, 0.0620, 0.0626),  # all of it
            ("camelyon-thumbnail.dcm", None, 190, 260),  # much of the pale fat counts
        ],
    )
    def test_area_is_what_one_sees(self, name, mpp, least_mm2, most_mm2):
        with open_slide(SLIDES / name, mpp_override=mpp) as slide:
            area = tissue_area_mm2(find_tissue(slide, SETTINGS), slide.info.mpp.x, slide.info.mpp.y)
        assert least_mm2 < area < most_mm2

    def test_fluorescence_has_none(self):
        with open_slide(SLIDES / "fluorescence.ndpi") as slide, pytest.raises(TissueError, match="fluorescence"):
            find_tissue(slide, SETTINGS)
