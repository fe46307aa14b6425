import cv2
import numpy as np
import pytest

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels import BRCA_CLASS_NAMES, UNKNOWN_CLASS
from muse_core.labels.datasets import one_dataset, read_datasets, read_datasets_file
from tests.data.make_patches import write_brca

FILE = """
classes = ["lymphocyte", "tumour_epithelial", "stromal"]

[[dataset]]
layout = "brca-m2c"
data = "brca"
weight = 3.0

[[dataset]]
name = "ours"
layout = "lab"
data = "lab"
mpp = 0.25
val = ["c*"]
classes.immune = "lymphocyte"
"""


def write_lab(root, names=("a", "b", "c1", "c2")):
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for name in names:
        image = np.full((64, 64, 3), 200, np.uint8)
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
        (root / "labels" / f"{name}.csv").write_text("x,y,class\n10,20,immune\n30,40,stromal\n50,20,mast\n")


@pytest.fixture
def root(tmp_path):
    write_brca(tmp_path / "brca", train=2, val=1, side_px=96, n_nuclei=4)
    write_lab(tmp_path / "lab")
    (tmp_path / "many.toml").write_text(FILE)
    return tmp_path


def read(root, text=None):
    if text is not None:
        (root / "many.toml").write_text(text)
    return read_datasets(read_datasets_file(root / "many.toml"), root)


def test_classes_become_the_models_and_the_rest_says_where_not_what(root):
    data = read(root)
    brca, ours = data.sources
    assert [(one.name, one.weight, len(one.train), len(one.validation)) for one in data.sources] == [
        ("brca", 3.0, 2, 1),
        ("ours", 1.0, 2, 2),
    ]
    assert {region.source for region in brca.train} == {"brca"}
    assert [region.name for region in ours.validation] == ["c1", "c2"]
    assert ours.train[0].class_ids.tolist() == [0, 2, UNKNOWN_CLASS]
    assert ours.train[0].mpp == 0.25
    assert len(data.train) == 4


def test_a_source_can_be_left_out_of_training(root):
    data = read(root).without(["ours"])
    assert [len(one.train) for one in data.sources] == [2, 0]
    assert len(data.validation) == 3
    with pytest.raises(ConfigError, match="--leave-out theirs: no dataset is called so; give one of brca, ours"):
        data.without(["theirs"])
    with pytest.raises(ConfigError, match="names every dataset"):
        data.without(["brca", "ours"])


def test_one_dataset_has_its_own_classes(root):
    data = one_dataset("brca-m2c", root / "brca")
    assert data.class_names == BRCA_CLASS_NAMES
    assert len(data.sources[0].train) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'classes.immune = "lymphocyte"',
            'classes.imune = "lymphocyte"',
            "ours: classes names 'imune'; it has immune",
        ),
        ('"lymphocyte"\n', '"lymphocytes"\n', "immune = 'lymphocytes'; the model has lymphocyte, tumour_epithelial"),
        ('val = ["c*"]', 'val = ["d*"]', r"val 'd\*' names no image or case of it"),
        ('layout = "brca-m2c"', 'layout = "brca"', "layout 'brca' is unknown; give one of brca-m2c, ocelot"),
        ("weight = 3.0", "mpp = 0.5", "dataset brca: mpp is for layout 'lab'"),
        ('name = "ours"', 'name = "brca"', "two datasets are called 'brca'"),
        ("weight = 3.0", "weight = 0", "weight = 0"),
    ],
)
def test_what_makes_no_sense_is_named(root, old, new, message):
    assert old in FILE
    with pytest.raises(ConfigError, match=message):
        read(root, FILE.replace(old, new))


def test_a_part_without_nuclei_teaches_nothing(root):
    for name in ("a", "b"):
        (root / "lab" / "labels" / f"{name}.csv").write_text("x,y,class\n")
    with pytest.raises(DatasetError, match="no dot is left to train on"):
        read(root)
