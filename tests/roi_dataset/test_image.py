"""ROI images against independent decoders, and sub-regions against crops."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import immunohistochemistry

from muse_core.errors import DatasetError
from muse_core.roi_dataset.image import RoiImage, RoiImageSettings, copy_roi, encode_roi
from muse_core.slide import open_slide

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides" / "good"


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9))


def tissue(width=700, height=600, seed=0):
    """Real tissue (immunohistochemistry), tiled by mirror images to the size asked for."""
    image = immunohistochemistry()
    pixels = np.pad(image, ((0, max(0, height - 512)), (0, max(0, width - 512)), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(np.roll(pixels, seed * 37, axis=1)[:height, :width])


def sharp_dots(side=512):
    rng = np.random.default_rng(4)
    image = np.full((side, side, 3), (240, 200, 220), np.uint8)
    for x, y in rng.integers(0, side, (80, 2)).tolist():
        cv2.circle(image, (x, y), 4, (60, 30, 120), -1)
    return image


@pytest.mark.parametrize(
    ("source", "floor_db"),
    [
        (tissue(512, 512), 41),
        (cv2.resize(tissue(512, 512), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 45),
        (sharp_dots(), 43),
    ],
    ids=["native tissue", "tissue brought from 20x to 40x", "sharp dots"],
)
def test_default_quality_keeps_tissue_well_above_38_db(source, floor_db):
    assert psnr(RoiImage(encode_roi(source)).decode(), source) > floor_db


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("width", "height"), [(512, 256), (700, 600), (1, 1), (257, 40)])
def test_any_tiff_reader_sees_the_same_pixels(subsampling, width, height):
    data = encode_roi(tissue(width, height), subsampling=subsampling, quality=85, mpp=0.25)
    decoded = RoiImage(data).decode()
    assert decoded.shape == (height, width, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), decoded)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), decoded)


def test_openslide_opens_a_stored_roi(tmp_path):
    openslide = pytest.importorskip("openslide")
    path = tmp_path / "roi.tif"
    path.write_bytes(encode_roi(tissue()))
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, (700, 600)).convert("RGB"))
    np.testing.assert_array_equal(pixels, RoiImage(path.read_bytes()).decode())


def test_resolution_is_written_per_centimetre():
    with tifffile.TiffFile(io.BytesIO(encode_roi(tissue(64, 64), mpp=0.25))) as tiff:
        page = tiff.pages.first
        assert (page.get_resolution(unit="micrometer")) == pytest.approx((4, 4))


@pytest.mark.parametrize("tile_px", [64, 256])
def test_sub_region_equals_crop_of_the_whole(tile_px):
    data = encode_roi(tissue(), tile_px=tile_px)
    whole = RoiImage(data).decode()
    rng = np.random.default_rng(1)
    for _ in range(60):
        x0, x1 = sorted(rng.choice(701, 2, replace=False))
        y0, y1 = sorted(rng.choice(601, 2, replace=False))
        np.testing.assert_array_equal(RoiImage(data).read(x0, y0, x1 - x0, y1 - y0), whole[y0:y1, x0:x1])


def test_sub_region_decodes_only_the_tiles_it_touches():
    image = RoiImage(encode_roi(tissue(1024, 1024)))
    image.read(300, 300, 200, 200)  # inside tile 1, 1
    assert image.tiles_decoded == 1
    image.read(256, 0, 256, 512)  # tiles 1, 0 and 1, 1
    assert image.tiles_decoded == 2
    image.read(255, 255, 2, 2)  # the corner of 0, 0  1, 0  0, 1  1, 1
    assert image.tiles_decoded == 4
    image.decode()
    assert image.tiles_decoded == 16


def test_what_is_read_belongs_to_the_reader():
    image = RoiImage(encode_roi(tissue()))
    first = image.read(10, 10, 50, 50)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(image.read(10, 10, 50, 50), kept)


def test_threads_encode_the_same_bytes():
    pixels = tissue()
    with ThreadPoolExecutor(3) as pool:
        assert encode_roi(pixels, pool=pool) == encode_roi(pixels)


def test_tables_are_stored_once():
    data = encode_roi(tissue(1024, 1024))
    assert data.count(b"\xff\xdb") == 2  # two quantisation tables, not two a tile


@pytest.mark.parametrize(("kind", "encode"), [("jpeg", imagecodecs.jpeg_encode), ("png", imagecodecs.png_encode)])
@pytest.mark.parametrize("pixels", [tissue(300, 200), tissue(300, 200)[..., 0].copy()], ids=["rgb", "grey"])
def test_images_of_other_tools_are_read_too(kind, encode, pixels):
    image = RoiImage(encode(pixels), kind)
    whole = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
    assert image.size == (300, 200)
    assert psnr(image.decode(), whole) > 30
    np.testing.assert_array_equal(image.read(10, 20, 100, 50), image.decode()[20:70, 10:110])


def _spoiled(data, at, patch):
    return data[:at] + patch + data[at + len(patch) :]


GOOD = encode_roi(tissue())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "tiff-jpeg-tiles"),
        (b"garbage", "tiff-jpeg-tiles"),
        (GOOD[:100], "tiff-jpeg-tiles"),
        (GOOD[:-1000], "tiff-jpeg-tiles"),
        (_spoiled(GOOD, 4, struct.pack("<I", 2**31)), "tiff-jpeg-tiles"),
        (imagecodecs.jpeg_encode(tissue(64, 64)), "tiff-jpeg-tiles"),
        (b"not a picture", "jpeg"),
        (b"not a picture", "png"),
        (imagecodecs.png_encode(np.zeros((4, 4, 3), np.uint16)), "png"),
        (GOOD, "webp"),
    ],
)
def test_damaged_bytes_are_a_dataset_error(data, kind):
    with pytest.raises(DatasetError, match="slide_00007"):
        RoiImage(data, kind, name="slide_00007")


def test_a_flipped_byte_gives_pixels_or_a_dataset_error():
    rng = np.random.default_rng(5)
    outcomes = []
    for at in rng.integers(0, RoiImage(GOOD).layout.spans[0][0] + 200, 400).tolist():
        try:
            outcomes.append(RoiImage(_spoiled(GOOD, at, bytes([GOOD[at] ^ 0xFF]))).read(0, 0, 1, 1).shape)
        except DatasetError:
            outcomes.append(None)
    assert {(1, 1, 3), None} == set(outcomes)


def test_damaged_tile_is_a_dataset_error_and_the_rest_is_read():
    layout = RoiImage(GOOD).layout
    offset, length = layout.spans[0]
    image = RoiImage(_spoiled(GOOD, offset, b"\0" * length), name="slide_00007")
    with pytest.raises(DatasetError, match="slide_00007: tile 0"):
        image.read(0, 0, 10, 10)
    np.testing.assert_array_equal(image.read(300, 300, 50, 50), RoiImage(GOOD).read(300, 300, 50, 50))


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 0, 10), (691, 0, 10, 10), (0, 595, 10, 10)])
def test_region_outside_is_a_dataset_error(box):
    with pytest.raises(DatasetError, match="700 x 600"):
        RoiImage(GOOD).read(*box)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3)])
def test_only_rgb_is_encoded(shape):
    with pytest.raises(DatasetError, match="needs"):
        encode_roi(np.zeros(shape, np.uint8))


def test_settings_refuse_a_tile_that_tiff_forbids():
    with pytest.raises(ValueError, match="multiple of 16"):
        RoiImageSettings(tile_px=250)


# Copies of a slide's own tiles.


@dataclass
class Tiles:
    """A tiled TIFF's compressed tiles, read by tifffile."""

    tile_width: int
    tile_height: int
    tiles_x: int
    tiles_y: int
    jpegtables: bytes | None
    photometric: int
    streams: list[bytes]

    def read_tile(self, tx, ty):
        return self.streams[ty * self.tiles_x + tx]


def drawn_tiles(path, photometric, subsampling=(1, 1), tile=(96, 80)):
    """A 5 x 5 grid of tiles that are not square, in a TIFF with tables of their own in each tile."""
    width, height = tile[1] * 5, tile[0] * 5
    options = (
        {"photometric": photometric, "subsampling": subsampling} if photometric == "ycbcr" else {"photometric": "rgb"}
    )
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if photometric == "rgb" else {}
    tifffile.imwrite(
        path, tissue(width, height), tile=tile, compression="jpeg", compressionargs={"level": 85, **colours}, **options
    )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        streams = [path.read_bytes()[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        return Tiles(tile[1], tile[0], 5, 5, page.jpegtables, int(page.photometric), streams), page.asarray()


@pytest.mark.parametrize(
    ("photometric", "subsampling"), [("ycbcr", (1, 1)), ("ycbcr", (2, 1)), ("ycbcr", (2, 2)), ("rgb", (1, 1))]
)
def test_copied_tiles_decode_to_the_slides_own_pixels(tmp_path, photometric, subsampling):
    tiles, whole = drawn_tiles(tmp_path / "drawn.tif", photometric, subsampling)
    data = copy_roi(tiles, 1, 2, 230, 250, mpp=0.25)
    expected = whole[2 * 96 : 2 * 96 + 250, 80 : 80 + 230]
    np.testing.assert_array_equal(RoiImage(data).decode(), expected)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), expected)
    np.testing.assert_array_equal(RoiImage(data).read(77, 90, 100, 120), expected[90:210, 77:177])


def test_tiles_that_cannot_stand_for_the_pixels_are_not_copied(tmp_path):
    tiles, _ = drawn_tiles(tmp_path / "drawn.tif", "ycbcr")
    assert copy_roi(tiles, 0, 0, 400, 480) is not None
    assert copy_roi(tiles, 3, 0, 161, 96) is None  # one column too many
    assert copy_roi(tiles, -1, 0, 80, 96) is None
    for damage in (b"", b"\0" * 500, tiles.streams[0][:30], imagecodecs.jpeg_encode(tissue(80, 40))):
        tiles.streams[6] = damage
        assert copy_roi(tiles, 0, 0, 160, 192) is None
    assert copy_roi(tiles, 2, 2, 160, 192) is not None  # the damaged tile is not part of it
    tiles.photometric = 1
    assert copy_roi(tiles, 2, 2, 160, 192) is None


@pytest.mark.slides
@pytest.mark.skipif(not SLIDES.exists(), reason="the real slides are not here")
def test_copied_tiles_of_a_real_slide_equal_its_reader():
    with open_slide(SLIDES / "CMU-1-Small-Region.svs") as slide:
        tiles = slide.jpeg_tiles(0)
        try:
            data = copy_roi(tiles, 1, 2, 1500, 2048)
        finally:
            tiles.close()
        expected = slide.read_level(tiles.tile_width, 2 * tiles.tile_height, 1500, 2048)
    np.testing.assert_array_equal(RoiImage(data).decode(), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), expected)


class Stored:
    """An image's bytes, and how many of them were asked for."""

    def __init__(self, data):
        self.data, self.size, self.asked = data, len(data), 0

    def read(self, offset, length):
        self.asked += length
        return self.data[offset : offset + length]


def test_of_an_image_with_thousands_of_tiles_only_its_tags_and_the_tiles_looked_at_are_read():
    image = np.tile(tissue(512, 512), (9, 9, 1))[:4096, :4096]  # 4096 tiles of 64 px: tags of 48 KiB
    stored = Stored(encode_roi(image, tile_px=64))
    lazy = RoiImage.of_stored(stored, name="large")
    np.testing.assert_array_equal(lazy.read(4000, 4000, 96, 96), RoiImage(stored.data).read(4000, 4000, 96, 96))
    assert stored.asked < 0.25 * stored.size
    with pytest.raises(DatasetError, match="broken: not a tiled JPEG TIFF"):
        RoiImage.of_stored(Stored(b"II" + stored.data[4:]), name="broken")
