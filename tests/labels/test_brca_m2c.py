import numpy as np
import pytest

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels import read_labelled_patches
from tests.data.make_patches import write_brca


@pytest.fixture
def root(tmp_path):
    write_brca(tmp_path)
    return tmp_path


def test_rows_are_y_x_class_and_dots_stand_one_px_from_their_index(root):
    (root / "labels" / "t0_gt_class_coords.txt").write_text("10 20 1\n30 40 3\n")
    patch = read_labelled_patches("brca-m2c", root, "train")[0]
    np.testing.assert_array_equal(patch.xy, [[21, 11], [41, 31]])
    np.testing.assert_array_equal(patch.class_ids, [0, 2])
    assert patch.image.shape == (160, 160, 3)
    assert patch.class_names[2] == "stromal"
    assert patch.mpp == 0.5


def test_dots_lie_on_dark_nuclei(root):
    for patch in read_labelled_patches("brca-m2c", root, "val"):
        columns, rows = np.floor(patch.xy).astype(int).T
        assert patch.image[rows, columns].mean() < 140 < patch.image.mean()


def test_a_patch_may_have_no_nucleus(root):
    (root / "labels" / "v0_gt_class_coords.txt").write_text("\n")
    patch = read_labelled_patches("brca-m2c", root, "val")[0]
    assert patch.xy.shape == (0, 2)
    assert patch.class_ids.shape == (0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2\n", "three integers"),
        ("1 2 x\n", "three integers"),
        ("5 999 1\n", r"dot \[999 5\] lies outside the 160x160 image"),
        ("5 6 4\n", "class 4 found; 1 to 3 needed"),
        ("5 6 0\n", "class 0 found; 1 to 3 needed"),
    ],
)
def test_labels_that_make_no_sense(root, text, said):
    (root / "labels" / "v0_gt_class_coords.txt").write_text(text)
    with pytest.raises(DatasetError, match=said):
        read_labelled_patches("brca-m2c", root, "val")


@pytest.mark.parametrize("name", ["images/v0.png", "labels/v0_gt_class_coords.txt", "brca_ds_val.txt"])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    with pytest.raises(DatasetError, match=name):
        read_labelled_patches("brca-m2c", root, "val")


def test_a_file_that_is_no_image(root):
    (root / "images" / "v0.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="13 bytes that are no PNG, JPEG or TIFF"):
        read_labelled_patches("brca-m2c", root, "val")


def test_unknown_names(root):
    with pytest.raises(ConfigError, match="brca-m2c"):
        read_labelled_patches("brca", root, "val")
    with pytest.raises(ConfigError, match="train, val, test"):
        read_labelled_patches("brca-m2c", root, "validation")


@pytest.mark.slides
def test_the_real_splits(shared):
    counts = {
        split: read_labelled_patches("brca-m2c", shared / "data" / "brca_m2c", split) for split in ("train", "val")
    }
    assert [sum(len(p.xy) for p in patches) for patches in counts.values()] == [18647, 3133]


def test_published_names_say_the_slides_mpp(root):
    name = "TCGA-A7-A0D9-01Z-00-DX2_18001_13001_1000_1000_0.9824"
    (root / "images" / "v0.png").rename(root / "images" / f"{name}.png")
    (root / "labels" / "v0_gt_class_coords.txt").rename(root / "labels" / f"{name}_gt_class_coords.txt")
    (root / "brca_ds_val.txt").write_text(f"{name}.png\n")
    assert read_labelled_patches("brca-m2c", root, "val")[0].slide_mpp == pytest.approx(0.2456)
    assert read_labelled_patches("brca-m2c", root, "train")[0].slide_mpp is None
