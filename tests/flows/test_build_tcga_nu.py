"""The Prefect flow over real slides, with Prefect's own server."""

import json

import pyarrow.parquet as pq
import pytest

from flows.build_tcga_nu import build_tcga_nu
from muse_core.roi_dataset.dataset import RoiDataset

SMALL = ("rois.size_px=1024", "rois.max_per_slide=4", "chunk_rois=2")

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


@pytest.mark.slow
def test_a_good_slide_completes_the_flow(drawn, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,case_id,project,uri\nS,C,P,{drawn[0]}\n")
    state = build_tcga_nu(manifest, tmp_path / "out", overrides=SMALL, workers=0, return_state=True)
    assert state.is_completed()
    assert state.result()["n_rois"] == len(RoiDataset(tmp_path / "out")) == 4


def test_a_bad_slide_fails_the_flow_and_loses_nothing(drawn, artifacts, tmp_path):
    manifest = tmp_path / "m.csv"
    (tmp_path / "bad.svs").write_text("no slide")
    manifest.write_text(f"slide_id,case_id,project,uri\nbad,C,P,bad.svs\ngood,C,P,{drawn[0]}\ngone,C,P,gone.svs\n")
    state = build_tcga_nu(manifest, tmp_path / "out", overrides=SMALL, workers=0, return_state=True)
    assert state.is_failed()
    assert "2 slides failed" in str(state.message)
    rows = {row["slide_id"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "slides.parquet").to_pylist()}
    assert rows == {"bad": "unreadable", "good": None, "gone": "not_found"}
    assert len(RoiDataset(tmp_path / "out")) == 4
    shown = artifacts()
    assert [row["slide_id"] for row in json.loads(shown["build-tcga-nu-slides"])] == ["bad", "gone", "good"]
    assert shown["build-tcga-nu-progress"] == 100.0
    assert "1 of 3 slides built" in shown["build-tcga-nu-summary"]
