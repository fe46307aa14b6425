import cv2
import numpy as np
import pytest
from scipy.io import savemat

from muse_core.errors import DatasetError
from muse_core.labels import read_labelled_patches


def write_image(folder, name, types=((2.0,), (4.0,), (6.0,), (1.0,))):
    """Four nuclei: inflammatory, malignant epithelial, muscle, other."""
    instances = np.zeros((50, 50), np.float64)
    for number in range(4):
        instances[10 * number : 10 * number + 4, 5:9] = number + 1
    for part in ("Images", "Labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "Images" / f"{name}.png"), np.full((50, 50, 4), 150, np.uint8))
    savemat(folder / "Labels" / f"{name}.mat", {"inst_map": instances, "inst_type": np.array(types)})


@pytest.fixture
def root(tmp_path):
    for number in (1, 2, 3, 4, 10):
        write_image(tmp_path / "Train", f"train_{number}")
    write_image(tmp_path / "Test", "test_1")
    return tmp_path


def test_seven_types_are_four_classes(root):
    patch = read_labelled_patches("consep", root, "train")[0]
    assert [patch.class_names[one] for one in patch.class_ids] == ["inflammatory", "epithelial", "spindle", "other"]
    np.testing.assert_allclose(patch.xy, [[7, 2], [7, 12], [7, 22], [7, 32]])
    assert (patch.name, patch.mpp) == ("train_1", 0.25)


def test_every_fifth_training_image_validates(root):
    assert [patch.name for patch in read_labelled_patches("consep", root, "val")] == ["train_10"]
    assert [patch.name for patch in read_labelled_patches("consep", root, "test")] == ["test_1"]
    assert len(read_labelled_patches("consep", root, "train")) == 4


def test_a_hole_in_the_numbers_is_no_nucleus(root):
    path = root / "Train" / "Labels" / "train_1.mat"
    instances = np.zeros((50, 50))
    instances[3:5, 3:5] = 2
    savemat(path, {"inst_map": instances, "inst_type": np.array([[1], [5]])})
    patch = read_labelled_patches("consep", root, "train")[0]
    assert [patch.class_names[one] for one in patch.class_ids] == ["spindle"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"inst_map": np.ones((50, 50))}, "needs inst_map and inst_type"),
        ({"inst_map": np.ones((5, 50)), "inst_type": [[1]]}, r"inst_map of shape \(5, 50\); 50x50"),
        ({"inst_map": np.full((50, 50), 3), "inst_type": [[1]]}, "names nucleus 3, inst_type has 1"),
        ({"inst_map": np.ones((50, 50)), "inst_type": [[8]]}, "inst_type from 8 to 8; 1 to 7 needed"),
    ],
)
def test_labels_that_make_no_sense(root, content, message):
    savemat(root / "Train" / "Labels" / "train_2.mat", content)
    with pytest.raises(DatasetError, match=message):
        read_labelled_patches("consep", root, "train")


def test_files_that_are_missing_or_none(root, tmp_path):
    (root / "Train" / "Labels" / "train_2.mat").write_text("no matlab")
    with pytest.raises(DatasetError, match="not a MATLAB file that can be read"):
        read_labelled_patches("consep", root, "train")
    (root / "Train" / "Labels" / "train_2.mat").unlink()
    with pytest.raises(DatasetError, match=r"train_2\.mat: no labels"):
        read_labelled_patches("consep", root, "train")
    with pytest.raises(DatasetError, match=r"no \.png in it"):
        read_labelled_patches("consep", tmp_path / "elsewhere", "train")
