"""Vendors' TIFFs drawn with the descriptions by which they are known: Philips, Leica SCN, Trestle.

Ventana BIF, MIRAX, VMS and CZI are no TIFFs that can be drawn with what is at hand.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from muse_core.slide import Slide, open_slide
from tests.data.make_slides import tissue_image

WIDTH, HEIGHT = 900, 700
TILED = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
FACTORS = (1, 2, 4)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue_image(WIDTH, HEIGHT, mpp=0.5, seed=1)[0]


def levels_of(image: np.ndarray) -> list[np.ndarray]:
    sizes = [(WIDTH // factor, HEIGHT // factor) for factor in FACTORS]
    return [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) for size in sizes]


def shows(slide: Slide, image: np.ndarray, corner: tuple[int, int] = (0, 0)) -> bool:
    """Whether each level shows the picture, its top-left corner at some place of level 0."""
    for number, (level, expected) in enumerate(zip(slide.info.levels, levels_of(image), strict=True)):
        x, y = (round(one / level.downsample_x) for one in corner)
        found = slide.read_level(x, y, expected.shape[1], expected.shape[0], level=number)
        if np.abs(found.astype(int) - expected).mean() > 4:
            return False
    return True


def attribute(name: str, kind: str, value: str) -> str:
    return f'<Attribute Name="{name}" Group="0x0" Element="0x0" PMSVR="{kind}">{value}</Attribute>'


def spacing(mm: float) -> str:
    return attribute("DICOM_PIXEL_SPACING", "IDoubleArray", f"&quot;{mm}&quot; &quot;{mm}&quot;")


def listed(name: str, kind: str, items: Sequence[str]) -> str:
    objects = "".join(f'<DataObject ObjectType="{kind}">{item}</DataObject>' for item in items)
    return attribute(name, "IDataObjectArray", f"<Array>{objects}</Array>")


def draw_philips(path: Path, image: np.ndarray) -> Path:
    """Levels padded to whole tiles, their true scale in the XML alone."""
    levels = [
        spacing(0.0005 * factor) + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "IUInt16", str(number))
        for number, factor in enumerate(FACTORS)
    ]
    scan = attribute("PIM_DP_IMAGE_TYPE", "IString", "WSI") + spacing(0.0005)
    scan += listed("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "PixelDataRepresentation", levels)
    about = listed("PIM_DP_SCANNED_IMAGES", "DPScannedImage", [scan])
    about += attribute("DICOM_MANUFACTURER", "IString", "PHILIPS")
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">{about}</DataObject>'
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels_of(image)):
            whole = np.full([-(-side // 256) * 256 for side in level.shape[:2]] + [3], 255, np.uint8)
            whole[: level.shape[0], : level.shape[1]] = level
            description = xml if number == 0 else f"level={number} mag={40 >> number} quality=80"
            options = {"subfiletype": 1} if number else {"software": "Philips DP v1.0"}
            tiff.write(whole, description=description, **TILED, **options)
    return path


def test_philips(tmp_path, image):
    with open_slide(draw_philips(tmp_path / "a.tiff", image)) as slide:
        assert slide.info.vendor == "philips"
        assert slide.info.mpp.x == pytest.approx(0.5)
        assert [level.downsample_x for level in slide.info.levels] == [1, 2, 4]
        assert (slide.info.levels[1].width, slide.info.levels[1].height) == (512, 384), "padding of level 1 is cut"
        assert shows(slide, image)


def scn_image(name: str, sizes: Sequence[tuple[int, int]], first_page: int, view: tuple[int, int, int, int]) -> str:
    pixels = "".join(
        f'<dimension sizeX="{width}" sizeY="{height}" r="{number}" ifd="{first_page + number}"/>'
        for number, (width, height) in enumerate(sizes)
    )
    width_nm, height_nm, x_nm, y_nm = view
    return (
        f'<image name="{name}" uuid="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<device model="Leica SCN400" version="1"/>'
        f'<pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{pixels}</pixels>'
        f'<view sizeX="{width_nm}" sizeY="{height_nm}" offsetX="{x_nm}" offsetY="{y_nm}" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


def draw_scn(path: Path, image: np.ndarray) -> Path:
    """A macro of the whole slide first, then a scan of a part of it, placed in nm."""
    levels = levels_of(image)
    sizes = [(level.shape[1], level.shape[0]) for level in levels]
    macro = scn_image("macro", [(400, 400)], 0, (2_000_000, 2_000_000, 0, 0))
    scan = scn_image("scan", sizes, 1, (500 * WIDTH, 500 * HEIGHT, 100_000, 200_000))
    xml = (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="a"><collection name="c" uuid="b" '
        f'sizeX="2000000" sizeY="2000000"><barcode>QQ==</barcode>{macro}{scan}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        scale = {"resolution": (2000.0, 2000.0), "resolutionunit": "CENTIMETER"}
        tiff.write(np.full((400, 400, 3), 230, np.uint8), description=xml, **TILED, **scale)
        for factor, level in zip(FACTORS, levels, strict=True):
            scale = {"resolution": (20000.0 / factor, 20000.0 / factor), "resolutionunit": "CENTIMETER"}
            tiff.write(level, **TILED, **scale)
    return path


def test_leica_scn(tmp_path, image):
    with open_slide(draw_scn(tmp_path / "a.scn", image)) as slide:
        assert (slide.info.vendor, slide.info.reader) == ("leica", "openslide")
        assert slide.info.mpp.x == pytest.approx(0.5)
        bounds = slide.info.bounds_level0
        assert (bounds.x, bounds.y, bounds.width, bounds.height) == (200, 400, WIDTH, HEIGHT)
        assert shows(slide, image, (200, 400))


def test_trestle(tmp_path, image):
    about = "Image=a;Objective Power=20;Background Color=E6E6E6;OverlapsXY= 0 0 0 0 0 0"
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for level in levels_of(image):  # Trestle writes µm/px where others write px per unit
            scale = {"resolution": (0.5, 0.5), "resolutionunit": "NONE"}
            tiff.write(level, description=about, software="MedScan", **TILED, **scale)
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.info.vendor, slide.info.reader) == ("trestle", "openslide")
        assert slide.info.mpp.x == pytest.approx(0.5)
        assert shows(slide, image)
