import cv2
import numpy as np
import pytest

from muse_core.errors import DatasetError
from muse_core.labels.masks import middles, read_mask


def test_the_middle_of_a_pixel_is_half_a_pixel_in():
    mask = np.zeros((6, 8), np.int64)
    mask[0, 0] = 7
    mask[2:4, 3:7] = 2
    xy, labels = middles(mask)
    np.testing.assert_array_equal(labels, [2, 7])
    np.testing.assert_allclose(xy, [[5.0, 3.0], [0.5, 0.5]])


def test_an_empty_mask_has_no_nucleus():
    xy, labels = middles(np.zeros((4, 4), np.int64))
    assert xy.shape == (0, 2)
    assert not len(labels)


def test_masks_of_any_depth(tmp_path):
    mask = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    cv2.imwrite(str(tmp_path / "deep.tif"), mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.tif", (3, 4)), mask)
    cv2.imwrite(str(tmp_path / "grey.png"), np.repeat(np.eye(3, dtype=np.uint8)[..., None] * 255, 3, axis=2))
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png", (3, 3, 3)), np.eye(3) * 255)


def test_bad_masks_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.tif: no mask \(No such file"):
        read_mask(tmp_path / "no.tif", (3, 4))
    (tmp_path / "text.tif").write_text("no mask")
    with pytest.raises(DatasetError, match="not a mask that can be decoded"):
        read_mask(tmp_path / "text.tif", (3, 4))
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((2, 2), np.uint8))
    with pytest.raises(DatasetError, match=r"a mask of shape \(2, 2\); 3x4, as its image, needed"):
        read_mask(tmp_path / "small.png", (3, 4))
