"""From drawn dots to the dataset: where nuclei are said to be, and what pixels a ROI holds, at odd µm/px."""

from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from muse_core.roi_dataset.dataset import RoiDataset
from tests.build.test_run import LEARNED, build, write_manifest
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

MPPS = (0.16, 0.2465, 0.25, 0.263, 0.46, 0.5)
SIDE_UM = 900


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


@pytest.fixture(
    scope="module", params=[pytest.param(mpp, marks=[pytest.mark.slow] * (mpp not in (0.25, 0.46))) for mpp in MPPS]
)
def built(request, tmp_path_factory) -> tuple[float, Path, np.ndarray, RoiDataset]:
    """mpp, slide, drawn nuclei (N, 2) level-0 px, dataset of 1024 px ROIs at 0.25 µm/px."""
    mpp = request.param
    folder = tmp_path_factory.mktemp("geometry")
    image, nuclei = tissue_image(round(SIDE_UM / mpp), round(SIDE_UM / mpp), mpp=mpp, seed=3)
    slide = draw_aperio(folder / "s.svs", image, Drawing(mpp=(mpp, mpp), tile_px=240, quality=92))
    build(
        write_manifest(folder / "m.csv", f"S,C,P,{slide},,,"),
        folder / "out",
        overrides=[*LEARNED, "rois.max_per_slide=4"],
    )
    return mpp, slide, nuclei, RoiDataset(folder / "out")


def test_nuclei_are_where_they_were_drawn(built):
    mpp, _, drawn, dataset = built
    tree = cKDTree(drawn * mpp)
    errors_um = []
    for index, row in enumerate(dataset.table().to_pylist()):
        scale = row["mpp"] / mpp
        assert row["width_level0"] == pytest.approx(row["width_px"] * scale)
        places = dataset.read(index).nuclei[:, :2] * scale + (row["x_level0"], row["y_level0"])
        near_um, which = tree.query(places * mpp, distance_upper_bound=2)
        found = np.isfinite(near_um)
        assert found.mean() > 0.9, "nuclei are found, and little else"
        errors_um.append(places[found] * mpp - drawn[which[found]] * mpp)
    offsets = np.concatenate(errors_um)
    assert np.abs(offsets.mean(axis=0)).max() < 0.05, "no shift"
    assert np.median(np.hypot(*offsets.T)) < 0.25


def test_roi_pixels_are_openslides(built):
    mpp, path, _, dataset = built
    with openslide.OpenSlide(str(path)) as slide:
        for index, row in enumerate(dataset.table().to_pylist()):
            corner = (int(row["x_level0"]), int(row["y_level0"]))
            assert corner == (row["x_level0"], row["y_level0"]), "ROIs start on whole pixels"
            width, height = (int(np.ceil(row[side])) for side in ("width_level0", "height_level0"))
            region = slide.read_region(corner, 0, (width, height)).convert("RGB")
            box = (0, 0, row["width_level0"], row["height_level0"])
            expected = region.resize((row["width_px"], row["height_px"]), Image.Resampling.BICUBIC, box=box)
            got = dataset.read(index).image.decode()
            # The last px of a resampled ROI see pixels beyond it that Pillow was not given.
            inner = slice(4, -4)
            assert psnr_db(got[inner, inner], np.asarray(expected)[inner, inner]) >= 38, f"{mpp} µm/px"


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_rois(built, tmp_path):
    _, slide, _, dataset = built
    manifest = write_manifest(tmp_path / "m.csv", f"S,C,P,{slide},,,")
    overrides = [*LEARNED, "rois.max_per_slide=4", "image.copy_tiles=false"]
    build(manifest, tmp_path / "out", overrides=overrides, device="cuda")
    on_gpu = RoiDataset(tmp_path / "out")
    assert on_gpu.ids == dataset.ids
    for index in range(len(dataset)):
        assert psnr_db(on_gpu.read(index).image.decode(), dataset.read(index).image.decode()) >= 38
