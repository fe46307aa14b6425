import json

import cv2
import numpy as np
import pytest

from muse_core.errors import DatasetError
from muse_core.labels import read_labelled_patches

SAMPLE = {
    "slide_name": "TCGA-XX-0001-01Z-00-DX1",
    "subset": "train",
    "organ": "kidney",
    "mpp_x": 0.25,
    "mpp_y": 0.25,
    "cell": {
        "x_start": 1000,
        "y_start": 2000,
        "x_end": 1819,
        "y_end": 2819,
        "resized_mpp_x": 0.2,
        "resized_mpp_y": 0.2,
    },
    "patch_x_offset": 0.5,
    "patch_y_offset": 0.5,
}


def write_sample(root, name, split, rows):
    for folder, ending in (("images", "jpg"), ("annotations", "csv")):
        (root / folder / split / "cell").mkdir(parents=True, exist_ok=True)
        path = root / folder / split / "cell" / f"{name}.{ending}"
        if ending == "csv":
            path.write_text(rows)
        else:
            cv2.imwrite(str(path), np.full((64, 64, 3), (250, 100, 50), np.uint8))


@pytest.fixture
def root(tmp_path):
    write_sample(tmp_path, "001", "train", "10,20,1\n30,40,2\n63,0,2\n")
    write_sample(tmp_path, "002", "val", "")
    pairs = {"002": {**SAMPLE, "subset": "val"}, "001": SAMPLE}
    (tmp_path / "metadata.json").write_text(json.dumps({"dataset": "OCELOT", "sample_pairs": pairs}))
    return tmp_path


def edit(root, **changes):
    pairs = {"001": {**SAMPLE, **changes}}
    (root / "metadata.json").write_text(json.dumps({"sample_pairs": pairs}))


def test_dots_are_middles_of_their_pixel_and_label_2_is_tumour(root):
    (patch,) = read_labelled_patches("ocelot", root, "train")
    np.testing.assert_array_equal(patch.xy, [[10.5, 20.5], [30.5, 40.5], [63.5, 0.5]])
    assert [patch.class_names[one] for one in patch.class_ids] == ["other", "tumour", "tumour"]
    assert (patch.name, patch.mpp, patch.slide_mpp) == ("001", 0.2, 0.25)
    assert patch.image[5, 5].tolist() == pytest.approx([50, 100, 250], abs=3)  # JPEG


def test_an_empty_label_file_is_a_patch_without_nuclei(root):
    (patch,) = read_labelled_patches("ocelot", root, "val")
    assert patch.xy.shape == (0, 2)
    assert patch.class_ids.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1,2,1\n1,2\n", r"001\.csv, row 2: '1,2' found; three numbers"),
        ("1,2,one\n", "row 1: '1,2,one' found"),
        ("1,2,inf\n", "row 1: '1,2,inf' found"),
        ("1,2,3\n", "row 1: label 3 found; 1 or 2 needed"),
        ("1,2,1\n\n64,2,1\n", r"row 3: \(64, 2\) lies outside"),
        ("1,2,1\n64,2,1\n", r"row 2: \(64, 2\) lies outside the 64x64 image"),
    ],
)
def test_rows_that_make_no_sense_are_named(root, rows, said):
    write_sample(root, "001", "train", rows)
    with pytest.raises(DatasetError, match=said):
        read_labelled_patches("ocelot", root, "train")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cell": {}}, "001: cell: no entry 'resized_mpp_x'"),
        ({"cell": {"resized_mpp_x": "0.2", "resized_mpp_y": 0.2}}, "'0.2', 0.2; numbers from 0.05 to 2"),
        ({"cell": {"resized_mpp_x": 0.2, "resized_mpp_y": 0.3}}, "0.2 and 0.3 um/px differ"),
        ({"subset": "test"}, "names no sample of subset 'train'"),
    ],
)
def test_metadata_that_makes_no_sense(root, changes, said):
    edit(root, **changes)
    with pytest.raises(DatasetError, match=said):
        read_labelled_patches("ocelot", root, "train")


def test_a_sample_cannot_lead_out_of_the_folder(root):
    (root / "metadata.json").write_text(json.dumps({"sample_pairs": {"../../secret": SAMPLE}}))
    with pytest.raises(DatasetError, match="no file name"):
        read_labelled_patches("ocelot", root, "train")


@pytest.mark.parametrize("name", ["metadata.json", "images/train/cell/001.jpg", "annotations/train/cell/001.csv"])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    with pytest.raises(DatasetError, match=name):
        read_labelled_patches("ocelot", root, "train")


@pytest.mark.parametrize("text", ["[]", "{", '{"sample_pairs": []}'])
def test_metadata_that_is_none(root, text):
    (root / "metadata.json").write_text(text)
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        read_labelled_patches("ocelot", root, "train")
