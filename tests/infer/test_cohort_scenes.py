"""A file of several pictures is several slides where a manifest or an option says which of them is meant."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.spatial import cKDTree

from muse_core import api
from muse_core.geometry import Box
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.view import view_of
from tests.data.make_slides import tissue_image
from tests.infer.cohort_runs import infer, slide_rows


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory) -> tuple[Path, list[np.ndarray]]:
    """A TIFF of a small and a larger piece of tissue, and their nuclei."""
    path, nuclei = tmp_path_factory.mktemp("scenes") / "two.tif", []
    with tifffile.TiffWriter(path) as tiff:
        for width, seed in ((600, 2), (700, 5)):
            image, true = tissue_image(width, 500, mpp=0.5, seed=seed)
            nuclei.append(true)
            options = {"tile": (256, 256), "photometric": "rgb", "compression": "lzw", "metadata": None}
            tiff.write(image, resolution=(20000.0, 20000.0), resolutionunit="CENTIMETER", **options)
    return path, nuclei


def share_found(out: Path, slide_id: str, true: np.ndarray) -> float:
    table = NucleiDataset(out).within(slide_id, Box(0, 0, 1000, 1000), columns=["x_level0", "y_level0"])
    found = np.column_stack([table["x_level0"], table["y_level0"]])
    return float((cKDTree(found).query(true)[0] * 0.5 < 2).mean())


def test_two_rows_of_one_file_are_two_slides(two_scenes, tmp_path):
    path, nuclei = two_scenes
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,uri,scene\nfirst,{path},1\nsecond,{path},2\nthird,{path},3\n")
    infer(manifest, tmp_path / "out")
    rows = slide_rows(tmp_path / "out")
    assert [(rows[name]["scene"], rows[name]["width_level0"]) for name in ("first", "second")] == [(1, 600), (2, 700)]
    assert "scene 3 is not in the file, which has 2 scenes" in rows["third"]["message"]
    for name, true in zip(("first", "second"), nuclei, strict=True):
        assert share_found(tmp_path / "out", name, true) > 0.85
    dataset = NucleiDataset(tmp_path / "out")
    assert view_of(dataset, "first", tmp_path / "none").scene == 1  # a report shows the same picture


def test_the_option_says_it_of_every_slide_whose_row_does_not(two_scenes, tmp_path):
    path, nuclei = two_scenes
    api.infer(path, tmp_path / "largest", checkpoint=NUCLEUS_DETECTOR)
    api.infer(path, tmp_path / "first", checkpoint=NUCLEUS_DETECTOR, scene=1)
    assert share_found(tmp_path / "largest", "two", nuclei[1]) > 0.85
    assert share_found(tmp_path / "first", "two", nuclei[0]) > 0.85
    assert slide_rows(tmp_path / "largest")["two"]["scene"] is None
    again = api.infer(path, tmp_path / "first", checkpoint=NUCLEUS_DETECTOR)  # another picture is another input
    assert again.slides_done == 1
    assert slide_rows(tmp_path / "first")["two"]["width_level0"] == 700
