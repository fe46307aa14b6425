"""Inference on images, which work like slides."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from muse_core.errors import ManifestError
from muse_core.infer import read_inputs
from tests.data.make_slides import tissue_image
from tests.infer.cohort_runs import infer, parts, slide_rows


def test_images_work_like_slides(tmp_path):
    folder = tmp_path / "images"
    (folder / "one").mkdir(parents=True)
    image, true = tissue_image(700, 500, mpp=0.5, seed=2)
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image).save(folder / "one" / "a.jpg", quality=95)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) << 4)
    summary = infer(folder, tmp_path / "out", mpp=0.5)
    rows = slide_rows(tmp_path / "out")
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "a": ("done", None),
        "one/a": ("done", None),
        "broken": ("failed", "unreadable"),
        "deep": ("failed", "not_8_bit"),
    }
    assert "8-bit RGB" in rows["deep"]["message"]
    assert summary.tissue_mm2 == pytest.approx(2 * 0.35 * 0.25)
    (part, _) = parts(tmp_path / "out")
    found = pq.read_table(part, partitioning=None, columns=["x_level0", "y_level0"])
    distance, _ = cKDTree(np.column_stack([found["x_level0"], found["y_level0"]])).query(true)
    assert (distance * 0.5 < 2).mean() > 0.85
    infer(folder / "a.png", tmp_path / "none")
    assert slide_rows(tmp_path / "none")["a"]["reason"] == "mpp_missing"


def test_an_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nope\.png: no such file"):
        read_inputs(tmp_path / "nope.png", 0.5)
