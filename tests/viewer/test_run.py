"""Runs as one meets them: moved slides, half-written, without slides, foreign, taught."""

import json
import shutil

import geopandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from muse_core.errors import DatasetError, ManifestError
from muse_core.viewer import ViewedRun
from muse_core.viewer import run as module
from tests.data.make_nuclei import write_slide
from tests.viewer.conftest import write_run


def test_a_slide_is_found_where_it_was_recorded(open_run, drawn):
    shown = open_run().slide("S1")
    assert shown.path == drawn[0]
    assert shown.no_pixels == ""


def test_a_moved_slide_is_told_and_found_with_slides(open_run, drawn, out, tmp_path):
    table = pq.read_table(out / "slides.parquet", partitioning=None)
    gone = pa.array(["/gone/S1.svs", "/gone/S2.svs"])
    pq.write_table(table.set_column(table.schema.get_field_index("uri"), "uri", gone), out / "slides.parquet")
    shown = open_run().slide("S1")
    assert shown.path is None
    assert shown.no_pixels == "/gone/S1.svs is gone; give --slides with the folder it was moved to."
    (tmp_path / "moved").mkdir()
    shutil.copy(drawn[0], tmp_path / "moved" / "S1.svs")
    assert open_run(slides=tmp_path / "moved").slide("S1").path == tmp_path / "moved" / "S1.svs"


def test_a_folder_without_slides_is_told(open_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="empty"):
        open_run(slides=tmp_path / "empty")


def test_nuclei_without_a_slides_table_show_alone(tmp_path):
    write_slide(tmp_path, 100)
    run = ViewedRun(tmp_path, lab=tmp_path / "lab")
    shown = run.slide("S1")
    assert "does not name its file" in shown.no_pixels
    assert 7000 < shown.size_level0[0] <= 8001
    assert run.digest(shown).counts.sum() == 100


def test_no_nuclei_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match="no nuclei dataset"):
        ViewedRun(tmp_path, lab=tmp_path / "lab")
    with pytest.raises(DatasetError):
        ViewedRun(tmp_path / "nowhere", lab=tmp_path / "lab")


def test_a_run_still_being_written_is_looked_at_as_it_grows(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(module, "_LOOK_SHARE", 1e9)  # however long a look takes on a busy machine
    (tmp_path / ".staging").mkdir()
    run = ViewedRun(tmp_path, lab=tmp_path / "lab")
    assert run.is_being_written
    assert run.slide_ids == []
    write_run(tmp_path, *drawn)
    (tmp_path / "slides.parquet").unlink()
    (tmp_path / "records").mkdir()
    record = {"row": {"slide_id": "S1", "status": "done", "uri": str(drawn[0])}, "inputs_hash": "x", "parts": []}
    (tmp_path / "records" / "S1.json").write_text(json.dumps(record))
    assert run.slide_ids == ["S1"]
    assert run.slide("S1").path == drawn[0]
    assert run.class_names == ("lymphocyte", "tumour_epithelial", "stromal")


def test_a_foreign_or_torn_file_is_one_line_and_hides_no_other_slide(tmp_path):
    points = geopandas.GeoDataFrame({"kind": ["a", "b"]}, geometry=[shapely.Point(1, 2), shapely.Point(3, 4)])
    whole = write_slide(tmp_path, 100)
    for slide_id in ("F1", "T1"):
        (tmp_path / "nuclei" / "LAB" / slide_id).mkdir()
    points.to_parquet(tmp_path / "nuclei" / "LAB" / "F1" / "part-0000.parquet")
    own = next(tmp_path.glob("nuclei/LAB/S1/*.parquet")).read_bytes()
    (tmp_path / "nuclei" / "LAB" / "T1" / "part-0000.parquet").write_bytes(own[:-100])
    run = ViewedRun(tmp_path, lab=tmp_path / "lab")
    assert run.slide_ids == ["F1", "S1", "T1"]
    assert run.class_names == ("lymphocyte", "tumour_epithelial", "stromal")
    assert run.digest(run.slide("S1")).counts.sum() == len(whole.score)
    for slide_id, told in (("F1", "not a part of a nuclei dataset"), ("T1", "part-0000.parquet")):
        with pytest.raises(DatasetError, match=told) as raised:
            run.digest(run.slide(slide_id))
        assert len(str(raised.value).splitlines()) == 1


def test_a_lone_foreign_file_or_its_folder_is_one_line(tmp_path):
    points = geopandas.GeoDataFrame({"kind": ["a"]}, geometry=[shapely.Point(1, 2)])
    points.to_parquet(tmp_path / "points.parquet")
    with pytest.raises(DatasetError, match=r"points\.parquet: a file; give the folder that muse infer --out wrote"):
        ViewedRun(tmp_path / "points.parquet", lab=tmp_path / "lab")
    with pytest.raises(DatasetError, match="no nuclei dataset, it has no part"):
        ViewedRun(tmp_path, lab=tmp_path / "lab")


def test_nuclei_found_by_a_taught_model_take_their_place(open_run, out, drawn):
    before = open_run().slide("S1")
    write_slide(out / "lab" / "inferred", 77, "S1")
    after = open_run().slide("S1")
    assert after.version != before.version
    assert open_run().digest(after).counts.sum() == 77
    assert after.path == drawn[0], "the file is still known"


def test_a_damaged_part_of_a_taught_model_does_not_hide_the_runs_own_nuclei(open_run, out):
    before = open_run().slide("S1")
    write_slide(out / "lab" / "inferred", 77, "S1")
    (part,) = (out / "lab" / "inferred").rglob("*.parquet")
    part.write_bytes(b"damaged")
    run = open_run()
    after = run.slide("S1")
    assert run.digest(after).counts.sum() == run.digest(before).counts.sum()
    assert part.name in after.row["message"]
