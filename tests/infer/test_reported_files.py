"""Files of kinds that people report against readers, drawn here and inferred whole: nuclei as of the plain file.

What each kind does to the pixels is tested beside its reader; this is whether a run as a user starts it comes to the
same nuclei, and says what it left out.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from scipy.spatial import cKDTree

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import known_ids
from muse_core.cohort.run import do_all
from muse_core.config import load_settings
from muse_core.infer import InferOptions, InferSettings, open_infer, read_inputs
from muse_core.models.shipped import NUCLEUS_DETECTOR
from tests.data.make_dicom import write_level
from tests.data.make_slides import tissue_image
from tests.infer.cohort_runs import slide_rows

WIDTH, HEIGHT = 820, 620
TILED = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
SCALE = {"resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"}

Draw = Callable[[Path, np.ndarray], None]


def smaller(image: np.ndarray, factor: int) -> np.ndarray:
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def plain(path: Path, image: np.ndarray, **options: object) -> None:
    tifffile.imwrite(path, image, **({"compression": "lzw"} | TILED | SCALE | options))


def deflate_with_predictor(path: Path, image: np.ndarray) -> None:
    """As vips writes deflate unless told otherwise."""
    plain(path, image, compression="deflate", predictor=2)


def jfif_under_an_rgb_tag(path: Path, image: np.ndarray) -> None:
    """Tiles that are YCbCr by their own marker, in a file that says RGB."""
    whole = np.full((3 * 256, 4 * 256, 3), 244, np.uint8)
    whole[:HEIGHT, :WIDTH] = image

    def tiles() -> Iterator[bytes]:
        for y in range(0, 768, 256):
            for x in range(0, 1024, 256):
                stream = io.BytesIO()
                Image.fromarray(whole[y : y + 256, x : x + 256]).save(stream, "JPEG", quality=96, subsampling=0)
                yield stream.getvalue()

    options = TILED | SCALE | {"photometric": "ycbcr", "compression": "jpeg"}
    tifffile.imwrite(path, tiles(), shape=image.shape, dtype=np.uint8, **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(2)


def turned(path: Path, image: np.ndarray) -> None:
    """Stored upside down with a tag that says so."""
    plain(path, np.ascontiguousarray(image[::-1, ::-1]), extratags=[(274, 3, 1, 3, True)])


def turned_in_strips(path: Path, image: np.ndarray) -> None:
    stored = np.ascontiguousarray(image[::-1, ::-1])
    plain(path, stored, tile=None, rowsperstrip=50, extratags=[(274, 3, 1, 3, True)])


def padded_levels(path: Path, image: np.ndarray) -> None:
    """Lower levels that are whole tiles, white beyond the picture."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, compression="lzw", **TILED, **SCALE)
        for factor in (2, 4):
            level = smaller(image, factor)
            whole = np.full([-(-side // 256) * 256 for side in level.shape[:2]] + [3], 255, np.uint8)
            whole[: level.shape[0], : level.shape[1]] = level
            tiff.write(whole, subfiletype=1, compression="lzw", **TILED)


def without_glass_tiles(path: Path, image: np.ndarray) -> None:
    """Tiles at the edges that hold glass alone have no bytes."""
    bordered = np.full((HEIGHT + 512, WIDTH + 512, 3), 255, np.uint8)
    bordered[256 : 256 + HEIGHT, 256 : 256 + WIDTH] = image
    plain(path, bordered)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[0]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        columns = -(-bordered.shape[1] // 256)
        for tile in range(len(offsets)):
            y, x = tile // columns * 256, tile % columns * 256
            if (bordered[y : y + 256, x : x + 256] == 255).all():
                offsets[tile] = counts[tile] = 0
        assert 0 in counts
        page.tags["TileOffsets"].overwrite(offsets)
        page.tags["TileByteCounts"].overwrite(counts)


KINDS: dict[str, tuple[Draw, tuple[int, int]]] = {
    "deflate_with_predictor": (deflate_with_predictor, (0, 0)),
    "jfif_under_an_rgb_tag": (jfif_under_an_rgb_tag, (0, 0)),
    "turned": (turned, (0, 0)),
    "turned_in_strips": (turned_in_strips, (0, 0)),
    "padded_levels": (padded_levels, (0, 0)),
    "without_glass_tiles": (without_glass_tiles, (256, 256)),
}


def run(slides: Path, out: Path, **options: object) -> None:
    """As `muse infer` does it."""
    manifest = read_inputs(slides, None, known=known_ids(RunPaths(out).records))
    asked = InferOptions(out=out, checkpoint=NUCLEUS_DETECTOR, **options)
    with open_infer(asked, load_settings(InferSettings, None, ())) as cohort:
        cohort.begin(manifest)
        cohort.finish(manifest, list(do_all(cohort, manifest.rows, cohort.do_slide)))


def nuclei_of(out: Path, slide_id: str) -> np.ndarray:
    parts = sorted((out / "nuclei").glob(f"*/{slide_id}/*.parquet"))
    tables = [pq.read_table(part, partitioning=None) for part in parts]
    return np.concatenate([np.column_stack([one["x_level0"], one["y_level0"]]) for one in tables])


@pytest.fixture(scope="module")
def inferred(tmp_path_factory) -> Path:
    """A folder of every kind and a plain one, and a DICOM slide of three files, inferred in one go."""
    folder = tmp_path_factory.mktemp("reported")
    slides = folder / "slides"
    slides.mkdir()
    image, _ = tissue_image(WIDTH, HEIGHT, mpp=0.5, seed=6)
    plain(slides / "plain.tif", image)
    for name, (draw, _) in KINDS.items():
        draw(slides / f"{name}.tif", image)
    for index in range(3):
        level = smaller(image, 2**index)
        name = slides / "dicom" / f"level-{index}.dcm"
        write_level(name, level.shape[1], level.shape[0], image=level, index=index, mpp=0.5 * 2**index)
    run(slides, folder / "out")
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "level-0"])
def test_a_reported_kind_gives_the_nuclei_of_the_plain_file(inferred, kind):
    assert slide_rows(inferred)[kind]["status"] == "done"
    expected = nuclei_of(inferred, "plain")
    found = nuclei_of(inferred, kind) - KINDS.get(kind, (None, (0, 0)))[1]
    assert len(found) == pytest.approx(len(expected), rel=0.01 if kind != "jfif_under_an_rgb_tag" else 0.03)
    near = cKDTree(found).query(expected)[0] * 0.5 < 0.5
    assert near.mean() > (0.99 if kind != "jfif_under_an_rgb_tag" else 0.95)  # JPEG is not the same pixels


@pytest.mark.slow
def test_a_dicom_series_is_one_slide(inferred):
    assert set(slide_rows(inferred)) == {"plain", "level-0", *KINDS}


@pytest.mark.slow
def test_a_folder_that_grows_keeps_its_ids_and_follows_links(tmp_path):
    image, _ = tissue_image(300, 260, mpp=0.5, seed=1)
    for path in ("s/A/S1.tif", "elsewhere/x.tif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        plain(tmp_path / path, image)
    (tmp_path / "s" / "link").symlink_to(tmp_path / "elsewhere")
    run(tmp_path / "s", tmp_path / "out")
    assert set(slide_rows(tmp_path / "out")) == {"S1", "x"}
    (tmp_path / "s" / "B").mkdir()
    image[0, 0] = 7
    plain(tmp_path / "s" / "B" / "S1.tif", image)
    run(tmp_path / "s", tmp_path / "out")
    assert set(slide_rows(tmp_path / "out")) == {"S1", "x", "B/S1.tif"}


def feature(left: int, top: int, right: int, bottom: int, name: str) -> dict[str, object]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    classification = {"name": name, "color": [200, 0, 0]}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": classification}}


@pytest.mark.slow
def test_qupaths_star_classes_and_names_that_people_type(tmp_path):
    image, _ = tissue_image(700, 500, mpp=0.5, seed=2)
    plain(tmp_path / "My slide (1).tif", image)
    (tmp_path / "edited").mkdir()
    areas = [feature(100, 100, 350, 400, "Tumor"), feature(400, 100, 600, 400, "Region*")]
    areas.append(feature(150, 150, 250, 250, "Ignore*"))
    text = json.dumps({"type": "FeatureCollection", "features": areas})
    (tmp_path / "regions.geojson").write_text(text)
    (tmp_path / "edited" / "My slide (1).geojson").write_text(text)
    run(tmp_path / "My slide (1).tif", tmp_path / "by regions", regions=tmp_path / "regions.geojson")
    run(tmp_path / "My slide (1).tif", tmp_path / "by tissue", tissue_folder=tmp_path / "edited")
    for out in ("by regions", "by tissue"):
        (part,) = (tmp_path / out / "nuclei").rglob("*.parquet")
        table = pq.read_table(part, partitioning=None).to_pandas()
        inside = table[table["in_tissue"]]
        x, y = inside["x_level0"], inside["y_level0"]
        tumour, region = x.between(100, 350) & y.between(100, 400), x.between(400, 600) & y.between(100, 400)
        ignored = x.between(155, 245) & y.between(155, 245)
        assert (tumour | region).all()
        assert tumour.sum() > 20, "a region of any class"
        assert region.sum() > 20, "QuPath's own region"
        assert not ignored.any()
