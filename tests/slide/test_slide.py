"""Pixels come from where they are said to come from."""

import threading
from pathlib import Path

import cv2
import numpy as np
import openslide
import psutil
import pytest

from muse_core.errors import ConfigError, MppError, SlideReadError
from muse_core.geometry import frame_at
from muse_core.slide import open_slide
from tests.data.make_slides import Drawing, break_tile, dots_image, draw_aperio, draw_tiff, tissue_image

GOOD = Path(__file__).parents[3] / "shared" / "data" / "slides" / "good"
slides = [pytest.mark.slides, pytest.mark.skipif(not GOOD.is_dir(), reason="the real slides are not here")]


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return tissue_image(1700, 1500, seed=5)[0]


@pytest.fixture(scope="module")
def tissue_svs(tissue, tmp_path_factory) -> Path:
    return draw_aperio(tmp_path_factory.mktemp("slides") / "tissue.svs", tissue)


def openslide_pixels(path: Path, corner: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region(corner, level, size).convert("RGB"))


def dot_centroids(image: np.ndarray, expected: np.ndarray, reach_px: float) -> np.ndarray:
    """The centre of darkness around each expected (x, y), in px of the image."""
    darkness = 255.0 - image.mean(axis=2)
    found = []
    for x, y in expected:
        left, top = int(x - reach_px), int(y - reach_px)
        patch = darkness[top : int(y + reach_px) + 1, left : int(x + reach_px) + 1]
        patch = np.clip(patch - np.median(patch) - 3, 0, None)
        rows, columns = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]] + 0.5
        found.append((left + (columns * patch).sum() / patch.sum(), top + (rows * patch).sum() / patch.sum()))
    return np.array(found)


@pytest.mark.parametrize(
    "mpp", [(m, m) for m in (0.16, 0.2465, 0.25, 0.263, 0.46, 0.5)] + [(0.25, 0.5), (0.16, 0.263)], ids=str
)
def test_dots_are_found_where_they_were_drawn(tmp_path, mpp):
    rng = np.random.default_rng(1)
    columns, rows = np.meshgrid(np.arange(4) * 180.0 + 260, np.arange(4) * 170.0 + 260)
    dots = np.stack([columns.ravel(), rows.ravel()], axis=1) + rng.uniform(-30, 30, (16, 2))
    image = dots_image(1060, 1030, dots, sigma_px=(1.5 / mpp[0], 1.5 / mpp[1]))
    path = draw_tiff(tmp_path / "dots.tif", image, Drawing(mpp=mpp, factors=(1, 2, 4)))
    with open_slide(path) as slide:
        for target in (0.25, 0.33, 0.5, 1.0):
            for corner in ((100.0, 80.0), (100.37, 80.81)):
                size = (int(900 * mpp[0] / target), int(880 * mpp[1] / target))
                roi = slide.read_region(*corner, *size, mpp=target)
                frame = frame_at(*corner, target, mpp)
                found = frame.to_level0(dot_centroids(roi, frame.from_level0(dots), max(6 / target, 3)))
                error_um = np.abs((found - dots) * mpp)
                assert error_um.max() < 0.1
                assert np.abs((found - dots).mean(axis=0) * mpp).max() < 0.01  # no shift in common


def test_native_reads_are_the_files_own_pixels(tissue_svs):
    with open_slide(tissue_svs) as slide:
        np.testing.assert_array_equal(
            slide.read_region(123, 77, 500, 400, mpp=0.25), openslide_pixels(tissue_svs, (123, 77), 0, (500, 400))
        )
        np.testing.assert_array_equal(
            slide.read_region(48, 80, 200, 150, mpp=1.0), openslide_pixels(tissue_svs, (48, 80), 1, (200, 150))
        )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=slides)
        for name in ("CMU-1-Small-Region.svs", "frozen-no-mpp.svs", "fluorescence.ndpi", "camelyon-thumbnail.dcm")
    ],
)
def test_native_reads_of_real_slides_equal_openslides(name):
    with open_slide(GOOD / name, tolerate_missing_mpp=True) as slide:
        width, height = slide.info.width_level0, slide.info.height_level0
        for x, y in ((0, 0), (width // 3, height // 2), (width - 300, height - 200)):
            expected = openslide_pixels(GOOD / name, (x, y), 0, (300, 200))
            np.testing.assert_array_equal(slide.read_level(x, y, 300, 200), expected)


def test_a_fraction_of_a_pixel_moves_the_image_by_it(tissue_svs, tissue):
    with open_slide(tissue_svs) as slide:
        left, right = (
            slide.read_region(600, 600, 301, 300, mpp=0.25)[:, :-1],
            slide.read_region(601, 600, 300, 300, mpp=0.25),
        )
        half = slide.read_region(600.5, 600, 300, 300, mpp=0.25)
    between = (left.astype(float) + right) / 2
    assert np.abs(half - between).mean() < 2.5
    assert np.abs(half - between).mean() < np.abs(left.astype(float) - right).mean() / 2


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_whole_reductions_average_areas(tmp_path, tissue, factor):
    with open_slide(draw_tiff(tmp_path / "a.tif", tissue, Drawing(factors=(1,)))) as slide:
        native = slide.read_level(300, 300, 120 * factor, 90 * factor).astype(float)
        expected = native.reshape(90, factor, 120, factor, 3).mean(axis=(1, 3))
        reduced = slide.read_region(300, 300, 120, 90, mpp=0.25 * factor)
    assert np.abs(reduced - expected).max() <= 0.51


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.2532, 0.4, 0.8, 1.3])
@pytest.mark.parametrize("size", [(1, 1), (7, 200), (333, 101)])
def test_regions_have_the_size_asked_for(tissue_svs, mpp, size):
    with open_slide(tissue_svs) as slide:
        assert slide.read_region(400.25, 300.5, *size, mpp=mpp).shape == (size[1], size[0], 3)
        assert slide.read_region(400, 300, *size, mpp=mpp).shape == (size[1], size[0], 3)


def test_outside_the_image_is_white(tissue_svs, tissue):
    height, width = tissue.shape[:2]
    with open_slide(tissue_svs) as slide:
        corner = slide.read_region(-50, -40, 200, 100, mpp=0.25)
        assert (corner[:40] == 255).all()
        assert (corner[:, :50] == 255).all()
        np.testing.assert_array_equal(corner[40:, 50:], slide.read_level(0, 0, 150, 60))
        beyond = slide.read_region(width - 30, height - 20, 64, 64, mpp=0.25)
        assert (beyond[20:] == 255).all()
        assert (beyond[:20, :30] != 255).any()
        assert (slide.read_region(-900, 0, 100, 100, mpp=0.31) == 255).all()
        assert (slide.read_level(width + 5, 0, 9, 9) == 255).all()


def test_the_finest_level_that_serves_is_never_too_coarse(tissue_svs):
    with open_slide(tissue_svs) as slide:
        fine = slide.read_region(600, 600, 100, 100, mpp=0.9)
        truth = cv2.resize(
            slide.read_level(600, 600, 372, 372), None, fx=1 / 3.6, fy=1 / 3.6, interpolation=cv2.INTER_AREA
        )
    assert np.abs(fine.astype(float) - truth[:100, :100]).mean() < 2


def test_many_regions_equal_the_same_ones_alone(tissue_svs):
    rng = np.random.default_rng(2)
    corners = [tuple(corner) for corner in rng.integers(-60, 1500, (45, 2)).tolist()]
    corners += [(100.5, 200.25), (0, 0)]
    for mpp, threads in ((0.25, 1), (0.2532, 2), (1.0, 1)):
        with open_slide(tissue_svs, read_threads=threads) as slide:
            regions = list(slide.read_regions(corners, 96, 64, mpp=mpp))
            assert len(regions) == len(corners)
            for corner, region in zip(corners, regions, strict=True):
                np.testing.assert_array_equal(region, slide.read_region(*corner, 96, 64, mpp=mpp))


def test_regions_too_large_to_hold_are_refused_by_read_regions_only(tissue_svs):
    with open_slide(tissue_svs) as slide, pytest.raises(ConfigError, match="read them with read_region"):
        slide.read_regions([(0, 0)], 9000, 9000, mpp=0.25)


@pytest.mark.parametrize("factors", [(1,), (1, 4)])
def test_overview_is_the_slide_made_small(tmp_path, factors):
    image = tissue_image(5003, 2507, seed=9)[0]
    path = draw_tiff(tmp_path / "a.tif", image, Drawing(factors=factors))
    with open_slide(path) as slide:
        overview = slide.read_overview(8 * 0.25)
        uneven = slide.read_overview(2.1)
    assert overview.shape == (314, 626, 3)
    truth = image[:2504, :5000].reshape(313, 8, 625, 8, 3).mean(axis=(1, 3))
    assert np.abs(overview[:313, :625] - truth).mean() < 2.0  # JPEG, twice where the second level serves
    assert uneven.shape == (299, 596, 3)
    # Blocks of a large reduction meet without a seam: steps across block edges are like those elsewhere.
    assert np.abs(overview[:313, :625] - truth).max(axis=2).mean() < 4


def test_a_large_reduction_is_streamed_and_seamless(tissue_svs, monkeypatch):
    with open_slide(tissue_svs) as slide:
        whole = slide.read_region(3, 5, 480, 420, mpp=0.7)
        monkeypatch.setattr("muse_core.slide.slide._MAX_SOURCE_PX", 1 << 16)
        monkeypatch.setattr("muse_core.slide.slide._BLOCK_SOURCE_PX", 200)
        blocks = slide.read_region(3, 5, 480, 420, mpp=0.7)
    assert np.abs(whole.astype(float) - blocks).mean() < 0.6
    assert np.abs(whole.astype(int) - blocks).max() < 30


def test_thumbnail_and_associated_images(tissue_svs):
    with open_slide(tissue_svs) as slide:
        assert slide.thumbnail(170).shape == (150, 170, 3)
        assert slide.associated_image("thumbnail").shape == (187, 212, 3)
        with pytest.raises(SlideReadError, match=r"no associated image 'label' \(there are: thumbnail\)"):
            slide.associated_image("label")


def test_asking_for_no_scale_at_all(tissue_svs):
    with open_slide(tissue_svs) as slide:
        for mpp in (0.0, -1.0, float("nan")):
            with pytest.raises(MppError, match="a positive number is needed"):
                slide.read_region(0, 0, 9, 9, mpp=mpp)


@pytest.mark.parametrize("reader", ["auto", "openslide", "tifffile"])
@pytest.mark.parametrize("keep_bytes", [0, 100])
def test_one_bad_tile_costs_only_what_it_covers(tmp_path, tissue, reader, keep_bytes):
    path = draw_aperio(tmp_path / "a.svs", tissue)
    good = tmp_path / "good.svs"
    good.write_bytes(path.read_bytes())
    break_tile(path, 2, 3, keep_bytes=keep_bytes)
    inside, elsewhere = (2 * 240 + 20, 3 * 240 + 20), (960, 480)
    with open_slide(path, reader=reader) as slide, open_slide(good) as reference:
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"region x=500 y=740 100x100 px of level 0 cannot be read"):
                slide.read_region(*inside, 100, 100, mpp=0.25)
            np.testing.assert_array_equal(
                slide.read_region(*elsewhere, 100, 100, mpp=0.25), reference.read_region(*elsewhere, 100, 100, mpp=0.25)
            )
        regions = slide.read_regions([elsewhere, inside, elsewhere], 100, 100, mpp=0.25)
        assert next(regions).shape == (100, 100, 3)
        with pytest.raises(SlideReadError):
            next(regions)
        np.testing.assert_array_equal(next(regions), reference.read_region(*elsewhere, 100, 100, mpp=0.25))
        with pytest.raises(StopIteration):
            next(regions)


def test_a_closed_slide_says_so(tissue_svs):
    slide = open_slide(tissue_svs)
    slide.close()
    with pytest.raises(SlideReadError, match="is closed"):
        slide.read_level(0, 0, 9, 9)


def test_threads_read_the_same_pixels(tissue_svs):
    corners = [(x, y) for x in range(0, 1400, 200) for y in range(0, 1200, 200)]
    with open_slide(tissue_svs) as slide:
        expected = [slide.read_region(*corner, 128, 128, mpp=0.26) for corner in corners]
        wrong: list[int] = []

        def read_all(offset: int) -> None:
            for index in np.roll(np.arange(len(corners)), offset).tolist():
                if not np.array_equal(slide.read_region(*corners[index], 128, 128, mpp=0.26), expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=read_all, args=(7 * one,)) for one in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["cucim", "openslide", "tifffile"])
def test_memory_does_not_grow_with_reads(tissue_svs, reader):
    process = psutil.Process()
    with open_slide(tissue_svs, reader=reader) as slide:
        corners = [(x, y) for x in range(0, 1400, 100) for y in range(0, 1200, 100)]

        def read_all() -> int:
            for region in slide.read_regions(corners, 256, 256, mpp=0.25):
                assert region.shape == (256, 256, 3)
            return process.memory_info().rss

        read_all()
        first = read_all()
        assert max(read_all() for _ in range(4)) - first < 24 << 20
