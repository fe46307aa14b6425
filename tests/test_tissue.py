"""Tissue: known masks and outlines, drawn artefacts over real tissue, real slides."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from shapely import Polygon
from skimage.data import immunohistochemistry

from muse_core.demo import DEMO_PX, _draw, draw_slide
from muse_core.errors import DatasetError, TissueError
from muse_core.geometry import Frame
from muse_core.slide import Level, Mpp, SlideInfo, open_slide
from muse_core.tissue import (
    Overview,
    Tissue,
    TissueSettings,
    find_tissue,
    mask_to_polygons,
    read_overview,
    read_tissue,
    tissue_area_mm2,
    tissue_mask,
    write_tissue,
)
from muse_core.tissue.faint import colour_texture
from muse_core.tissue.focus import blurred_mask, focus_of
from muse_core.tissue.mask import estimate_background, glass_mask, looks_fluorescent

SETTINGS = TissueSettings()
MPP = 8.0
GLASS = (243, 240, 242)
SLIDES = Path(__file__).parents[2] / "shared" / "data" / "slides" / "good"
IDENTITY = Frame(0.0, 0.0, 1.0, 1.0)

INKS = {
    "green": (30, 140, 90),
    "dark green": (10, 70, 40),
    "blue": (40, 60, 160),
    "light blue": (60, 120, 190),
    "violet": (45, 40, 95),
    "black": (35, 35, 40),
    "red": (200, 35, 45),
    "yellow": (235, 220, 40),
}


def tissue_image(side: int) -> np.ndarray:
    """Real stained tissue, (side, side, 3), as an overview shows it: no glass in it, 1 px about 8 µm."""
    brown = immunohistochemistry()[:240, :240]  # within the stained gland
    small = cv2.resize(brown, (60, 60), interpolation=cv2.INTER_AREA)
    tiles = np.tile(np.concatenate([small, small[:, ::-1]], axis=1), (side // 60 + 1, side // 120 + 1, 1))
    return np.ascontiguousarray(tiles[:side, :side])


def slide_image(height: int = 300, width: int = 400, glass: tuple[int, int, int] = GLASS) -> np.ndarray:
    """Glass with a square of tissue at x 100..250, y 80..230."""
    image = np.full((height, width, 3), glass, np.uint8)
    image[80:230, 100:250] = tissue_image(150)
    return image


TRUTH = np.zeros((300, 400), bool)
TRUTH[80:230, 100:250] = True


def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((mask & truth).sum() / (mask | truth).sum())


def stroke(image: np.ndarray, colour: tuple[int, int, int], *, width_px: int = 30) -> np.ndarray:
    """The image under a pen stroke from left to right across the glass above the tissue and the tissue's top."""
    line = np.zeros(image.shape[:2], np.uint8)
    points = np.array([(x, 60 + 30 * np.sin(x / 40)) for x in range(0, image.shape[1], 5)])
    cv2.polylines(line, [points.astype(np.int32)], False, 255, width_px)
    amount = cv2.GaussianBlur(line, (0, 0), 1.0)[..., None] / 255
    transmitted = image * (np.maximum(np.array(colour), 3) / 245) ** amount
    return transmitted.astype(np.uint8), line > 0


class TestTissueMask:
    def test_finds_the_tissue_and_nothing_else(self):
        assert agreement(tissue_mask(slide_image(), MPP, SETTINGS), TRUTH) > 0.95

    @pytest.mark.parametrize("glass", [(255, 255, 255), (228, 223, 229), (235, 232, 220), (205, 205, 205)])
    def test_whatever_the_white_balance(self, glass):
        image = (slide_image() / np.array(GLASS) * np.array(glass)).clip(0, 255).astype(np.uint8)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.93

    def test_pale_stain_is_found(self):
        image = slide_image().astype(float)
        pale = GLASS * (image / GLASS) ** 0.3  # a third of the stain
        assert agreement(tissue_mask(pale.astype(np.uint8), MPP, SETTINGS), TRUTH) > 0.9

    @pytest.mark.parametrize("name", INKS)
    def test_pen_is_refused_on_glass_and_over_tissue(self, name):
        image, inked = stroke(slide_image(), INKS[name])
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & inked).sum() / inked.sum() < 0.02
        untouched = TRUTH & ~cv2.dilate(inked.view(np.uint8), np.ones((25, 25), np.uint8)).astype(bool)
        assert mask[untouched].mean() > 0.98

    def test_black_border_and_missing_tiles_are_refused(self):
        image = slide_image()
        image[:, :40] = 0
        image[:30] = 0
        image[120:160, 150:200] = 0  # a missing tile within the tissue
        mask = tissue_mask(image, MPP, SETTINGS)
        assert not mask[:, :42].any()
        assert not mask[121:159, 151:199].any()
        assert agreement(mask, TRUTH & (image.max(axis=2) > 0)) > 0.9

    def test_white_padding_beside_tinted_glass_is_glass(self):
        image = slide_image(glass=(240, 232, 241))
        image[250:] = 255
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_coverslip_edges_and_grey_dirt_are_refused(self):
        image = slide_image()
        cv2.line(image, (20, 0), (30, 299), (150, 150, 150), 2)
        cv2.line(image, (0, 280), (399, 270), (200, 190, 195), 2)  # with a tint
        cv2.circle(image, (330, 60), 25, (120, 120, 122), -1)
        image = cv2.GaussianBlur(image, (0, 0), 0.7)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_all_tissue_and_no_glass(self):
        assert tissue_mask(tissue_image(200), MPP, SETTINGS).mean() > 0.99

    def test_glass_alone_holds_none(self):
        noise = np.random.default_rng(0).normal(0, 2.0, (200, 200, 3))
        image = np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)
        assert not tissue_mask(image, MPP, SETTINGS).any()


def test_background_is_the_commonest_bright_flat_colour():
    image = slide_image(glass=(228, 223, 229))
    assert estimate_background(image, glass_mask(image)) == pytest.approx((228, 223, 229), abs=1)
    image[240:] = 255
    assert estimate_background(image, glass_mask(image)) == pytest.approx((228, 223, 229), abs=1)


def test_fluorescence_is_told_from_dark_tissue():
    dark = np.zeros((100, 100, 3), np.uint8)
    dark[40:50, 40:50] = (20, 60, 200)
    assert looks_fluorescent(dark)
    assert not looks_fluorescent(slide_image())
    assert not looks_fluorescent((tissue_image(100) * 0.6).astype(np.uint8))
    bordered = slide_image()
    bordered[:, 110:] = 0  # most of it is scanner border, yet there is glass
    assert not looks_fluorescent(bordered)


class TestMaskToPolygons:
    def test_rectangle_is_exact(self):
        mask = np.zeros((100, 100), bool)
        mask[10:40, 20:90] = True
        (polygon,) = mask_to_polygons(mask, Frame(5.0, 7.0, 16.0, 8.0), SETTINGS, mpp=MPP)
        expected = shapely.box(5 + 20 * 16, 7 + 10 * 8, 5 + 90 * 16, 7 + 40 * 8)
        assert polygon.symmetric_difference(expected).area == pytest.approx(0, abs=1e-6)

    def test_holes_are_kept_and_islands_in_them(self):
        mask = np.zeros((120, 120), bool)
        mask[10:110, 10:110] = True
        mask[30:90, 30:90] = False
        mask[45:75, 45:75] = True
        ring, island = mask_to_polygons(mask, IDENTITY, TissueSettings(simplify_um=4.0), mpp=MPP)
        assert (len(ring.interiors), len(island.interiors)) == (1, 0)
        assert ring.area == pytest.approx(100**2 - 60**2, abs=2)
        assert island.area == pytest.approx(30**2, abs=1e-6)

    def test_small_pieces_and_holes_go_by_their_area_in_um2(self):
        mask = np.zeros((200, 200), bool)
        mask[10:110, 10:110] = True
        mask[150:167, 150:167] = True  # 17 px: 18,496 um2, below 20,000
        mask[150:168, 100:118] = True  # 18 px: 20,736 um2
        mask[50:58, 50:58] = False  # 8 px: 4,096 um2, below 5,000
        mask[80:89, 80:89] = False  # 9 px: 5,184 um2
        settings = TissueSettings(min_hole_area_um2=5_000, simplify_um=4.0)
        large, small = mask_to_polygons(mask, IDENTITY, settings, mpp=MPP)
        assert small.area == pytest.approx(18**2, abs=0.5)
        assert len(large.interiors) == 1
        assert large.area == pytest.approx(100**2 - 9**2, abs=2)

    def test_slide_of_one_small_field_keeps_its_tissue(self):
        (polygon,) = mask_to_polygons(np.ones((14, 14), bool), IDENTITY, SETTINGS, mpp=MPP)  # 12,544 um2
        assert polygon.area == pytest.approx(14**2)

    def test_any_mask_gives_valid_disjoint_polygons_of_its_area(self):
        rng = np.random.default_rng(3)
        mask = cv2.GaussianBlur(rng.random((300, 300)).astype(np.float32), (0, 0), 4) > 0.5
        settings = TissueSettings(min_area_um2=0, min_hole_area_um2=0, simplify_um=0)
        polygons = mask_to_polygons(mask, IDENTITY, settings, mpp=MPP)
        assert all(polygon.is_valid for polygon in polygons)
        assert sum(polygon.area for polygon in polygons) == pytest.approx(mask.sum(), rel=0.02)
        assert shapely.union_all(polygons).area == pytest.approx(sum(p.area for p in polygons), rel=1e-3)

    def test_empty_mask(self):
        assert mask_to_polygons(np.zeros((10, 10), bool), IDENTITY, SETTINGS, mpp=MPP) == []


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


class TestPaleTissue:
    def test_stroma_that_only_its_nuclei_stain_is_found_beside_glands(self):
        image, truth = pale_stroma(gland=True)
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & truth).sum() / truth.sum() > 0.94  # its rim has no nuclei
        assert (mask & ~truth).sum() / mask.sum() < 0.02

    def test_the_same_far_from_any_sure_tissue_is_not(self):
        image, _ = pale_stroma(gland=False)
        assert not tissue_mask(image, MPP, SETTINGS).any()

    def test_grey_texture_beside_tissue_is_glass(self):
        image = slide_image()
        speckle = np.random.default_rng(0).normal(0, 12, (150, 100, 1))
        image[80:230, 250:350] = np.clip(np.array(GLASS) - 10 + speckle, 0, 255)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_line_that_touches_tissue_is_left_out(self):
        image = slide_image()
        cv2.line(image, (249, 150), (399, 170), (200, 190, 195), 2)
        image = cv2.GaussianBlur(image, (0, 0), 0.7)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.95

    def test_noise_on_a_slide_is_not_texture(self):
        noise = np.random.default_rng(0).normal(0, 4, (300, 400, 3))
        image = np.clip(slide_image() + noise, 0, 255).astype(np.uint8)
        assert agreement(tissue_mask(image, MPP, SETTINGS), TRUTH) > 0.9

    @pytest.mark.parametrize("name", INKS)
    def test_fading_rim_of_a_stroke_is_left_out(self, name):
        image, inked = stroke(slide_image(), INKS[name])
        near = cv2.dilate(inked.view(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
        mask = tissue_mask(image, MPP, SETTINGS)
        assert (mask & near & ~TRUTH).sum() < 0.02 * inked.sum()

    def test_texture_is_of_colour_only(self):
        image = np.full((64, 64, 3), GLASS, np.uint8)
        image[::4] = (122, 120, 121)  # half the light of each channel
        assert colour_texture(image, background=GLASS, size_px=5).max() < 0.003
        image[::4] = (150, 140, 190)
        assert colour_texture(image, background=GLASS, size_px=5)[:60].min() > 0.02

    def test_strips_make_no_difference(self):
        image = np.random.default_rng(0).integers(100, 255, (1100, 40, 3), np.uint8)
        whole = colour_texture(image, background=GLASS, size_px=5)
        np.testing.assert_array_equal(colour_texture(image[400:700], background=GLASS, size_px=5)[5:-5], whole[405:695])


def pale_stroma(*, gland: bool) -> tuple[np.ndarray, np.ndarray]:
    """A band of lone nuclei on near-glass, beside a gland or alone, and where tissue is."""
    rng = np.random.default_rng(2)
    fine = np.full((2400, 3200, 3), GLASS, np.uint8)  # 1 µm/px
    for x, y in zip(rng.uniform(1200, 2400, 2200), rng.uniform(600, 1800, 2200), strict=True):
        cv2.circle(fine, (int(x), int(y)), 4, (190, 195, 225), -1)
    image = cv2.resize(fine, (400, 300), interpolation=cv2.INTER_AREA)
    truth = np.zeros((300, 400), bool)
    truth[75:225, 150:300] = True
    if gland:
        image[75:225, 90:150] = tissue_image(150)[:, :60]
        truth[75:225, 90:150] = True
    return image, truth


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


def slide_info(width: int = 1000, height: int = 800) -> SlideInfo:
    levels = (Level(width, height, 1.0, 1.0, 256, 256),)
    return SlideInfo(Path("a.svs"), "openslide", "", "aperio", Mpp(0.25, 0.25, "override"), levels, None, ())


SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
SQUARE_GEOMETRY = {"type": "Polygon", "coordinates": [SQUARE]}


def feature(geometry: dict | None, **properties: object) -> dict:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


class TestGeoJson:
    def test_round_trip(self, tmp_path):
        ring = Polygon(SQUARE, [[[150, 150], [150, 200], [200, 200], [200, 150]]])
        tissue = Tissue((ring, shapely.box(500.25, 10, 600, 60)))
        write_tissue(tissue, tmp_path / "t.geojson")
        back = read_tissue(tmp_path / "t.geojson", slide_info())
        assert back.source == "t.geojson"
        assert [a.equals(b) for a, b in zip(back.polygons, tissue.polygons, strict=True)] == [True, True]

    def test_is_what_qupath_opens_as_annotations(self, tmp_path):
        write_tissue(Tissue((shapely.box(0, 0, 10, 10),)), tmp_path / "t.geojson")
        content = json.loads((tmp_path / "t.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        (first,) = content["features"]
        assert first["properties"]["objectType"] == "annotation"
        assert first["properties"]["classification"]["name"] == "Tissue"
        assert first["geometry"]["type"] == "Polygon"

    @pytest.mark.parametrize(
        "content",
        [
            {"type": "FeatureCollection", "features": [feature(SQUARE_GEOMETRY)]},
            [feature(SQUARE_GEOMETRY)],
            feature(SQUARE_GEOMETRY),
            SQUARE_GEOMETRY,
            {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
            {"type": "GeometryCollection", "geometries": [SQUARE_GEOMETRY]},
            [feature(SQUARE_GEOMETRY), feature(SQUARE_GEOMETRY)],  # drawn twice
            [feature(SQUARE_GEOMETRY), feature({"type": "Point", "coordinates": [1, 2]}), feature(None)],
            {**SQUARE_GEOMETRY, "coordinates": [SQUARE[:-1]]},  # ring not closed
        ],
        ids=["collection", "array", "feature", "geometry", "multi", "geometries", "twice", "point", "open"],
    )
    def test_any_shape_of_file_is_read(self, tmp_path, content):
        path = tmp_path / "edited.geojson"
        path.write_text(json.dumps(content))
        (polygon,) = read_tissue(path, slide_info()).polygons
        assert polygon.area == pytest.approx(200**2)

    def test_crossing_rings_are_repaired(self, tmp_path):
        bow_tie = [[100, 100], [300, 300], [300, 100], [100, 300], [100, 100]]
        (tmp_path / "t.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [bow_tie]}))
        polygons = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert sum(polygon.area for polygon in polygons) == pytest.approx(200**2 / 2)

    def test_is_clipped_to_the_slide(self, tmp_path):
        (tmp_path / "t.geojson").write_text(json.dumps(shapely.geometry.mapping(shapely.box(900, -50, 2000, 100))))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(shapely.box(900, 0, 1000, 100))

    def test_ignored_class_is_cut_out(self, tmp_path):
        hole = shapely.geometry.mapping(shapely.box(100, 100, 200, 300))
        content = [feature(SQUARE_GEOMETRY), feature(hole, classification={"name": "Ignore*"})]
        (tmp_path / "t.geojson").write_text(json.dumps(content))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(shapely.box(200, 100, 300, 300))

    def test_third_coordinate_and_bom_do_no_harm(self, tmp_path):
        solid = {"type": "Polygon", "coordinates": [[[x, y, 0] for x, y in SQUARE]]}
        (tmp_path / "t.geojson").write_text(json.dumps(solid), encoding="utf-8-sig")
        assert read_tissue(tmp_path / "t.geojson", slide_info()).polygons[0].area == pytest.approx(200**2)

    @pytest.mark.parametrize(
        ("text", "error", "says"),
        [
            ("{", DatasetError, "not GeoJSON"),
            ("3", DatasetError, "not GeoJSON"),
            ('{"type": "Circle"}', DatasetError, "not a GeoJSON geometry"),
            ('{"type": "Polygon", "coordinates": [[[1, 2]]]}', DatasetError, "not a GeoJSON geometry"),
            ('{"type": "FeatureCollection", "features": []}', TissueError, "holds no polygon"),
            (json.dumps({"type": "Point", "coordinates": [1, 2]}), TissueError, "holds no polygon"),
            (json.dumps(shapely.geometry.mapping(shapely.box(2000, 0, 2100, 10))), TissueError, "lies on slide a.svs"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, tmp_path, text, error, says):
        (tmp_path / "t.geojson").write_text(text)
        with pytest.raises(error, match=says):
            read_tissue(tmp_path / "t.geojson", slide_info())

    def test_missing_file(self, tmp_path):
        with pytest.raises(DatasetError, match="No such file"):
            read_tissue(tmp_path / "none.geojson", slide_info())


def test_area_counts_both_axes():
    assert tissue_area_mm2(Tissue((shapely.box(0, 0, 4000, 1000),)), 0.25, 0.5) == pytest.approx(0.5)


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
