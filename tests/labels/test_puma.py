import json

import cv2
import numpy as np
import pytest

from muse_core.errors import DatasetError
from muse_core.evaluate.representation import TileSettings, cut_tiles
from muse_core.labels import read_labelled_patches, read_puma
from tests.data.make_puma import CONTEXT, NAME, NUCLEI, ROIS, SQUARE, TRIANGLE, feature, write_nuclei, write_puma


@pytest.fixture
def root(tmp_path):
    write_puma(tmp_path)
    return tmp_path


def test_polygons_become_centroids_and_plasma_cells_are_others(root):
    (patch,) = read_labelled_patches("puma", root, "val")
    np.testing.assert_allclose(patch.xy, [[20, 20], [102, 52]], atol=1e-4)
    assert [patch.class_names[one] for one in patch.class_ids] == ["tumour", "other"]
    assert (patch.name, patch.mpp, patch.image.shape, patch.surround) == (NAME, 0.25, (256, 256, 3), None)


def test_ndc_takes_the_split_files_own_dots(root):
    (patch,) = read_labelled_patches("puma", root, "val", labels="dots")
    np.testing.assert_array_equal(patch.xy, [[20.5, 20.5], [101.5, 51.5]])
    assert [patch.class_names[one] for one in patch.class_ids] == ["tumour", "lymphocyte"]


def test_each_part_of_a_multipolygon_is_a_nucleus(root):
    parts = {"type": "MultiPolygon", "coordinates": [TRIANGLE["coordinates"], SQUARE["coordinates"]]}
    write_nuclei(root, [feature("nuclei_lymphocyte", parts)])
    (patch,) = read_labelled_patches("puma", root, "val")
    np.testing.assert_allclose(patch.xy, [[20, 20], [102, 52]], atol=1e-4)
    assert patch.class_ids.tolist() == [1, 1]


def test_what_lies_around_a_roi_comes_from_the_context_image(root):
    # A context whose green says the column and whose red the row, coarsely; the ROI is its middle.
    rows, columns = np.mgrid[:1200, :1200] // 5
    context = np.dstack([np.zeros_like(rows), columns, rows]).astype(np.uint8)  # BGR
    (root / CONTEXT).mkdir()
    cv2.imwrite(str(root / CONTEXT / f"{NAME}_context.tif"), context)
    start = (1200 - 256) // 2
    cv2.imwrite(str(root / ROIS / f"{NAME}.tif"), context[start:, start:][:256, :256])
    (tile,) = cut_tiles(read_labelled_patches("puma", root, "val"), TileSettings(mpp=0.25, fov_px=512))
    # The tile's square begins at the ROI's corner, so the tile itself 144 px before it.
    np.testing.assert_array_equal(tile.image, context[start - 144 :, start - 144 :][:512, :512, ::-1])
    np.testing.assert_allclose(tile.xy, [[164, 164], [246, 196]], atol=1e-4)
    (coarse,) = cut_tiles(read_labelled_patches("puma", root, "val"), TileSettings(mpp=0.5, fov_px=512))
    assert coarse.image[100, 100, :2].tolist() == pytest.approx([(start - 288 + 200) // 5] * 2, abs=1)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([feature("nuclei_tumor", TRIANGLE), feature("nuclei_tumour", SQUARE)], "feature 2: class 'nuclei_tumour' is"),
        ([{"geometry": TRIANGLE, "properties": {}}], "feature 1: no classified polygon"),
        ([feature("nuclei_tumor", {"type": "Point", "coordinates": [1, 2]})], "feature 1: Point found"),
        ([feature("nuclei_tumor", {"type": "Polygon", "coordinates": "x"})], "feature 1: no classified polygon"),
    ],
)
def test_features_that_make_no_sense_are_named(root, features, said):
    write_nuclei(root, features)
    with pytest.raises(DatasetError, match=said):
        read_labelled_patches("puma", root, "val")


@pytest.mark.parametrize("name", [f"{ROIS}/{NAME}.tif", f"{NUCLEI}/{NAME}_nuclei.geojson", "split/val.json"])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    with pytest.raises(DatasetError, match=name):
        read_labelled_patches("puma", root, "val")


@pytest.mark.parametrize("text", ["{", "[]", '{"anno": []}', '{"anno": {}}'])
def test_split_files_that_make_no_sense(root, text):
    (root / "split" / "val.json").write_text(text)
    with pytest.raises(DatasetError, match=r"split.val\.json"):
        read_labelled_patches("puma", root, "val")


@pytest.mark.parametrize("dots", [[[[1, 2]]], [[[1, 2, 3]], [], []], [["x"], [], []], 3])
def test_dots_that_make_no_sense(root, dots):
    (root / "split" / "val.json").write_text(json.dumps({"anno": {f"images/{NAME}_.png": dots}}))
    with pytest.raises(DatasetError, match=NAME):
        read_puma(root, "val", labels="dots")
