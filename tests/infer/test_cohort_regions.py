"""Inference limited to regions that somebody drew."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shapely
from scipy.spatial import cKDTree

from muse_core.errors import ConfigError
from muse_core.geometry import Box
from muse_core.infer import plan
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.report.view import view_of
from muse_core.slide import open_slide
from tests.infer.cohort_runs import infer, parts, places, slide_rows, write_manifest


def test_regions_limit_the_work(inferred, small, tmp_path):
    left, top, side = 900, 800, 600
    ring = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    infer(small[0], tmp_path / "out", "window_px=512", regions=tmp_path / "r.geojson")
    found, everything = places(tmp_path / "out"), places(inferred)
    assert ((found >= (left, top)) & (found <= (left + side, top + side))).all()
    inside = everything[((everything > (left, top)) & (everything < (left + side, top + side))).all(axis=1)]
    distance, _ = cKDTree(found).query(inside)
    assert (distance * 0.25 < 1).mean() > 0.99
    assert slide_rows(tmp_path / "out")["small"]["tissue_mm2"] == pytest.approx((side * 0.25e-3) ** 2, rel=0.05)
    (part,) = parts(tmp_path / "out")
    digest = sha256((tmp_path / "r.geojson").read_bytes()).hexdigest()
    about = json.loads(pq.read_schema(part).metadata[b"muse"])
    assert (about["regions"], about["tissue_edited"]) == ({"file": "r.geojson", "sha256": digest}, None)
    view = view_of(NucleiDataset(tmp_path / "out"), "small", tmp_path / "out" / "tissue" / "small.geojson")
    inside = shapely.box(left, top, left + side, top + side).buffer(0.02)
    assert inside.covers(shapely.transform(view.tissue_um, lambda xy: xy / 0.25)), "where nobody looked is no tissue"
    with pytest.raises(ConfigError, match="no such file"):
        infer(small[0], tmp_path / "out", regions=tmp_path / "none.geojson")


def whole_box(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.geojson").write_text(shapely.to_geojson(shapely.box(0, 0, 5000, 5000)))


def test_a_slide_without_regions_in_a_folder_of_them_is_skipped_and_keeps_what_it_had(tiny, tmp_path):
    manifest, out = write_manifest(tmp_path / "m.csv", f"A,C,P,{tiny},,,", f"B,C,P,{tiny},,,"), tmp_path / "out"
    whole_box(tmp_path / "r", "A")
    summary = infer(manifest, out, regions=tmp_path / "r")
    assert (summary.slides_done, summary.slides_skipped) == (1, 1)
    assert {name: row["reason"] for name, row in slide_rows(out).items()} == {"A": None, "B": "no_regions"}
    assert "no B.geojson" in slide_rows(out)["B"]["message"]
    assert infer(manifest, out, regions=tmp_path / "r").slides_reused == 2
    assert infer(write_manifest(tmp_path / "b.csv", f"B,C,P,{tiny},,,"), out).slides_done == 1
    assert infer(manifest, out, regions=tmp_path / "r").slides_skipped == 1
    assert "nuclei of an earlier run are kept" in slide_rows(out)["B"]["message"]
    assert len(parts(out)) == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_regions_that_cannot_be_read_fail_their_slide_alone(tiny, tmp_path):
    manifest, out = write_manifest(tmp_path / "m.csv", f"A,C,P,{tiny},,,", f"B,C,P,{tiny},,,"), tmp_path / "out"
    whole_box(tmp_path / "r", "A")
    (tmp_path / "r" / "B.geojson").symlink_to("/proc/self/mem")
    summary = infer(manifest, out, regions=tmp_path / "r")
    assert (summary.slides_done, summary.slides_failed) == (1, 1)
    row = slide_rows(out)["B"]
    assert row["reason"] == "dataset_invalid"
    assert "B.geojson: cannot be read" in row["message"]


@pytest.mark.slow
def test_regions_count_from_the_scanners_bounds_and_leave_out_what_qupath_ignores(small, tmp_path):
    def box(left, top, right, bottom, name):
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        about = {"classification": {"name": name, "color": [0, 0, 0]}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": about}

    drawn = [box(800, 700, 1400, 1300, "Region*"), box(800, 700, 1100, 1300, "Ignore*")]
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))
    with open_slide(small[0]) as slide:
        area = plan._regions(tmp_path / "r.geojson", replace(slide.info, bounds_level0=Box(100, 50, 900, 900)))
    assert area.bounds == (1200, 750, 1500, 1350)
    (tmp_path / "r.geojson").write_text(json.dumps(box(90_000, 0, 91_000, 1000, "Tumor")))
    infer(small[0], tmp_path / "out", regions=tmp_path / "r.geojson")
    assert slide_rows(tmp_path / "out")["small"]["reason"] == "no_tissue"
