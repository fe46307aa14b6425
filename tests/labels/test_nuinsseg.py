import cv2
import numpy as np
import pytest

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels import UNKNOWN_CLASS, read_labelled_patches

ORGANS = ("human bladder", "human liver", "human lung", "mouse fat", "mouse heart", "mouse liver")


def write_image(organ, name, *, vague=False):
    mask = np.zeros((40, 60), np.uint16)
    mask[10:14, 20:30] = 300
    mask[30:34, 50:54] = 9
    for folder in ("tissue images", "label masks modify", "vague areas/mask binary"):
        (organ / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(organ / "tissue images" / f"{name}.png"), np.full((40, 60, 3), 150, np.uint8))
    cv2.imwrite(str(organ / "label masks modify" / f"{name}.tif"), mask)
    if vague:
        area = np.zeros((40, 60), np.uint8)
        area[25:, 40:] = 255
        cv2.imwrite(str(organ / "vague areas" / "mask binary" / f"{name}.png"), area)


@pytest.fixture
def root(tmp_path):
    for organ in ORGANS:
        write_image(tmp_path / organ, f"{organ.replace(' ', '_')}_1")
    write_image(tmp_path / ORGANS[0], "human_bladder_10", vague=True)
    write_image(tmp_path / ORGANS[0], "human_bladder_2")
    return tmp_path


def test_middles_of_masks_say_where_and_organs_are_cases(root):
    patches = read_labelled_patches("nuinsseg", root, "train")
    assert [patch.name for patch in patches[:3]] == ["human_bladder_1", "human_bladder_2", "human_bladder_10"]
    np.testing.assert_allclose(patches[0].xy, [[52.0, 32.0], [25.0, 12.0]])
    assert (patches[0].class_ids == UNKNOWN_CLASS).all()
    assert (patches[0].mpp, patches[0].case, patches[0].annotated) == (0.2, "human bladder", None)


def test_nothing_is_known_of_vague_areas(root):
    vague = read_labelled_patches("nuinsseg", root, "train")[2]
    np.testing.assert_allclose(vague.xy, [[25.0, 12.0]])
    assert vague.annotated.sum() == 40 * 60 - 15 * 20


def test_every_fifth_organ_validates_whole(root):
    train = {patch.case for patch in read_labelled_patches("nuinsseg", root, "train")}
    validation = {patch.case for patch in read_labelled_patches("nuinsseg", root, "val")}
    assert validation == {"mouse heart"}
    assert train == set(ORGANS) - validation


def test_what_is_no_such_folder(root, tmp_path):
    with pytest.raises(ConfigError, match="publishes no test split"):
        read_labelled_patches("nuinsseg", root, "test")
    (root / ORGANS[1] / "label masks modify" / "human_liver_1.tif").unlink()
    with pytest.raises(DatasetError, match=r"human_liver_1\.tif: no mask"):
        read_labelled_patches("nuinsseg", root, "train")
    with pytest.raises(DatasetError, match="no folder with 'tissue images' in it"):
        read_labelled_patches("nuinsseg", tmp_path / "elsewhere", "train")
