"""Colours, geometry and what was left out: whatever the tags and markers say, the same picture comes out."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from muse_core.errors import MppError, SlideChangedError, SlideReadError
from muse_core.slide import open_slide
from tests.data.make_slides import draw_aperio, tissue_image

TILED = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
RESOLUTION = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}
READERS = ("auto", "tifffile")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(1000, 760, mpp=0.5, seed=5)[0]


def read_whole(path: Path, reader: str = "auto") -> np.ndarray:
    with open_slide(path, reader=reader) as slide:
        return slide.read_level(0, 0, slide.info.width_level0, slide.info.height_level0)


def jpeg_tiles(image: np.ndarray, marker: str) -> Iterator[bytes]:
    """Tiles whose samples are YCbCr or RGB and that say so by a marker, by names of their components, or not at all."""
    whole = cv2.copyMakeBorder(image, 0, -image.shape[0] % 256, 0, -image.shape[1] % 256, cv2.BORDER_REPLICATE)
    for y in range(0, whole.shape[0], 256):
        for x in range(0, whole.shape[1], 256):
            tile = np.ascontiguousarray(whole[y : y + 256, x : x + 256])
            if marker == "jfif":
                stream = io.BytesIO()
                Image.fromarray(tile).save(stream, "JPEG", quality=95, subsampling=0)
                yield stream.getvalue()
            elif marker == "adobe rgb":
                yield imagecodecs.jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace="RGB")
            else:
                halved = {"subsampling": "420"} if "halved" in marker else {}
                yield without_app_markers(imagecodecs.jpeg8_encode(tile, level=95, **halved))


def without_app_markers(stream: bytes) -> bytes:
    kept, at = stream[:2], 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        kept += b"" if stream[at + 1] in (0xE0, 0xEE) else stream[at:end]
        at = end
    return kept + stream[at:]


def write_jpeg(path: Path, image: np.ndarray, marker: str, tag: int) -> Path:
    options = TILED | {"photometric": "ycbcr", "compression": "jpeg"}
    tifffile.imwrite(path, jpeg_tiles(image, marker), shape=image.shape, dtype=np.uint8, **options, **RESOLUTION)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(tag)
    return path


@pytest.mark.parametrize(
    ("marker", "tag"),
    [("jfif", 2), ("jfif", 6), ("adobe rgb", 2), ("adobe rgb", 6), ("none", 6), ("none, halved chroma", 2)],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_jpeg_streams_own_word_on_its_colours_beats_the_tag(tmp_path, image, marker, tag, reader):
    path = write_jpeg(tmp_path / "a.tif", image, marker, tag)
    assert np.abs(read_whole(path, reader).astype(int) - image).mean() < 2


@pytest.mark.parametrize(("marker", "tag", "photometric"), [("jfif", 2, 6), ("adobe rgb", 6, 2), ("none", 6, 6)])
def test_tiles_are_copied_as_what_they_are_decoded_as(tmp_path, image, marker, tag, photometric):
    with open_slide(write_jpeg(tmp_path / "a.tif", image, marker, tag)) as slide:
        tiles = slide.jpeg_tiles()
        assert tiles.photometric == photometric
        tiles.close()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"tile": None, "rowsperstrip": 64}])
def test_an_orientation_turns_the_whole_picture(tmp_path, image, orientation, layout):
    stored = {  # what is to be stored for the picture to come out upright
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image, -1),
    }[orientation]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for factor in (1, 2):
            page = np.ascontiguousarray(stored[::factor, ::factor])
            tags = [(274, 3, 1, orientation, True)]
            tiff.write(page, **TILED | layout | RESOLUTION, compression="lzw", extratags=tags)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 1000, 760), image)
        np.testing.assert_array_equal(slide.read_level(130, 70, 300, 200), image[70:270, 130:430])
        upright = slide.read_level(0, 0, 500, 380, level=1)
        half = cv2.resize(image, (500, 380), interpolation=cv2.INTER_AREA)
        assert np.abs(upright.astype(int) - half).mean() < 8
        if orientation > 1:
            assert slide.jpeg_tiles() is None
            assert any(f"orientation {orientation}" in one for one in slide.info.judgement)


@pytest.mark.parametrize("compression", ["lzw", "jpeg", "deflate", None])
@pytest.mark.parametrize(
    ("reader", "counts_too"),
    [("auto", True), ("auto", False), ("cucim", True), ("openslide", True), ("tifffile", True), ("tifffile", False)],
)
def test_tiles_that_were_left_out_are_white_with_every_reader(tmp_path, image, compression, reader, counts_too):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, **TILED, **RESOLUTION)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
        for tile in (0, 5, 11):
            offsets[tile] = 0
            counts[tile] *= not counts_too
        tiff.pages[0].tags["TileOffsets"].overwrite(offsets)
        tiff.pages[0].tags["TileByteCounts"].overwrite(counts)
    expected = image.copy()
    expected[:256, :256] = expected[256:512, 256:512] = expected[512:, 768:] = 255
    with open_slide(path, reader=reader) as slide:
        difference = np.abs(slide.read_level(0, 0, 1000, 760).astype(int) - expected)
        assert difference.mean() < 2 if compression == "jpeg" else difference.max() <= 1
        regions = list(slide.read_regions([(200, 200), (700, 500), (200, 300)], 250, 200, mpp=0.5))
        assert (regions[0][56:, 56:] == 255).all()
        assert any("3 of 12 tiles were left out" in one for one in slide.info.judgement)


def stored_as(kind: str, image: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """The picture in another interpretation of its samples, and what tifffile needs to be told."""
    if kind == "white-is-zero":
        return 255 - image[:, :, 1], {"photometric": "miniswhite"}
    if kind == "grey":
        return image[:, :, 1], {"photometric": "minisblack"}
    if kind == "cmyk":
        return np.asarray(Image.fromarray(image).convert("CMYK")), {"photometric": "separated"}
    if kind == "alpha":
        opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
        return np.concatenate([image, opaque], axis=2), {"extrasamples": ["unassalpha"]}
    if kind == "spare channel":
        return np.concatenate([image, np.zeros_like(image[:, :, :1])], axis=2), {"extrasamples": ["unspecified"]}
    if kind == "planes":
        return np.ascontiguousarray(np.moveaxis(image, 2, 0)), {"planarconfig": "separate"}
    if kind == "ycbcr":
        return np.asarray(Image.fromarray(image).convert("YCbCr")), {"photometric": "ycbcr"}
    palette = Image.fromarray(image).quantize(256)
    colours = np.zeros((3, 256), np.uint16)
    table = np.array(palette.getpalette(), np.uint16).reshape(-1, 3).T * 257
    colours[:, : table.shape[1]] = table
    return np.asarray(palette), {"photometric": "palette", "colormap": colours}


def shown_as(kind: str, image: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The RGB that such samples stand for: what making them lost is no fault of who reads them."""
    if kind in ("white-is-zero", "grey"):
        return np.repeat(image[:, :, 1:2], 3, axis=2)
    if kind == "ycbcr":
        return np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))
    return np.asarray(Image.fromarray(image).quantize(256).convert("RGB")) if kind == "palette" else image


KINDS = ["white-is-zero", "grey", "cmyk", "alpha", "spare channel", "planes", "ycbcr", "palette"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"tile": None, "rowsperstrip": 64}])
@pytest.mark.parametrize("compression", ["lzw", "deflate", None])
def test_other_colours_are_converted_in_strips_as_in_tiles(tmp_path, image, kind, layout, compression):
    samples, options = stored_as(kind, image)
    tags = [(530, 3, 2, (1, 1), True)] if kind == "ycbcr" else []
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples, compression=compression, extratags=tags, **TILED | layout | options | RESOLUTION)
    assert np.abs(read_whole(path).astype(int) - shown_as(kind, image, samples)).max() <= 1


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (np.zeros((300, 300, 3), np.uint16), {}, "samples of 16 bits; 8-bit RGB or grey is needed"),
        (np.zeros((300, 300, 3), np.float32), {}, "floating-point samples of 32 bits"),
        (np.zeros((300, 300, 3), np.uint8), {"photometric": "cielab"}, "is CIELab; save it as RGB"),
        (np.zeros((300, 300, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "has 5 channels"),
        (np.zeros((300, 300), np.bool_), {"photometric": "minisblack"}, "samples of 1 bits"),
    ],
)
@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"tile": None, "rowsperstrip": 64}])
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, samples, options, words, layout):
    tifffile.imwrite(tmp_path / "a.tif", samples, **TILED | layout | options | RESOLUTION)
    with pytest.raises(SlideReadError, match=words):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("options", "mpp", "source"),
    [
        ({"resolution": (4.0, 4.0), "imagej": True, "metadata": {"unit": "um"}}, 0.25, "imagej.unit"),
        ({"resolution": (100.0, 100.0), "imagej": True, "metadata": {"unit": "cm"}}, None, ""),
        ({"resolution": (101600.0, 101600.0), "resolutionunit": "INCH"}, 0.25, "tiff.XResolution"),
        ({"resolution": (72.0, 72.0), "resolutionunit": "INCH"}, None, ""),
        ({"resolution": (40000.0, 40000.0), "resolutionunit": "NONE"}, None, ""),
        ({"resolution": (40000.0, 0.0), "resolutionunit": "CENTIMETER"}, None, ""),
        ({"resolution": (0.0, 0.0), "resolutionunit": "CENTIMETER"}, None, ""),
        ({}, None, ""),
    ],
)
def test_resolution_tags_that_say_something_are_read_and_no_others(tmp_path, image, options, mpp, source):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **{"photometric": "rgb", "tile": (256, 256)} | options)
    if mpp is None:
        with pytest.raises(MppError) as caught:
            open_slide(path)
        assert caught.value.reason == "mpp_missing"
        return
    with open_slide(path) as slide:
        assert slide.info.mpp.x == pytest.approx(mpp)
        assert slide.info.mpp.source == source


@pytest.mark.parametrize(
    ("sizes", "mpp"),
    [
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, 0.25),
        ({"PhysicalSizeX": 250, "PhysicalSizeY": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}, 0.25),
        (
            {"PhysicalSizeX": 2.5e-4, "PhysicalSizeY": 2.5e-4, "PhysicalSizeXUnit": "mm", "PhysicalSizeYUnit": "mm"},
            0.25,
        ),
        ({"PhysicalSizeX": 1e-5, "PhysicalSizeY": 1e-5, "PhysicalSizeXUnit": "in", "PhysicalSizeYUnit": "in"}, 0.254),
        ({"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}, None),
        ({"PhysicalSizeX": 0.25}, None),
        ({"PhysicalSizeX": 0.0, "PhysicalSizeY": 0.0}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("tagged", [False, True])
def test_ome_sizes_in_any_unit_beat_the_generic_tag(tmp_path, image, sizes, mpp, tagged):
    path = tmp_path / "a.ome.tif"
    tag = {"resolution": (25000.0, 25000.0), "resolutionunit": "CENTIMETER"} if tagged else {}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image, **TILED | {"metadata": {"axes": "YXS", **sizes}} | tag)
    with open_slide(path, tolerate_missing_mpp=True) as slide:
        expected = mpp if mpp is not None else 0.4 if tagged else float("nan")
        assert slide.info.mpp.x == pytest.approx(expected, nan_ok=True)


def test_a_tag_against_the_vendors_word_is_an_error_that_names_both(tmp_path, image):
    path = draw_aperio(tmp_path / "a.svs", image)  # 0.25 by its description
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name, value in (("XResolution", (20000, 1)), ("YResolution", (20000, 1)), ("ResolutionUnit", 3)):
            tiff.pages[0].tags[name].overwrite(value)
    with pytest.raises(MppError, match=r"aperio.MPP = 0.25 and tiff.XResolution = 0.5"):
        open_slide(path)
    with open_slide(path, mpp_override=0.25) as slide:
        assert slide.info.mpp.source == "override"


@pytest.mark.parametrize("how", ["grows", "is replaced", "is taken away"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, image, how):
    path = draw_aperio(tmp_path / "a.svs", image)
    with open_slide(path) as slide:
        slide.read_level(0, 0, 100, 100)
        if how == "grows":
            with path.open("ab") as file:
                file.write(b"more")
        elif how == "is replaced":
            draw_aperio(tmp_path / "b.svs", image[::-1].copy()).replace(path)
        else:
            path.unlink()
        with pytest.raises(SlideChangedError, match=r"a\.svs: (changes|is gone) while it is read"):
            slide.read_level(0, 0, 100, 100)
        with pytest.raises(SlideChangedError):
            list(slide.read_regions([(0, 0), (200, 200)], 100, 100, mpp=0.25))
