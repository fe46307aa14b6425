"""The ids that an output's slides have had, wherever it lives and however its run ended."""

import fsspec
import pytest

from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.output import known_ids_of, output_of
from muse_core.cohort.records import SlideRecord, keep_record
from tests.cohort.toy_work import do_toys


def test_a_store_s_ids_are_known_after_a_kill_and_on_any_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSE_WORK", str(tmp_path / "first"))
    store, slide = f"memory://{tmp_path.name}/out", tmp_path / "A.svs"
    slide.write_text("ab")
    assert known_ids_of(output_of(store)) == {}
    do_toys(store, {"A": str(slide)})
    ObjectFolder(store).delete(["slides.parquet"])  # as a run leaves it that is killed before its end
    monkeypatch.setenv("MUSE_WORK", str(tmp_path / "second"))
    assert known_ids_of(output_of(store)) == {str(slide): "A"}
    assert do_toys(store, {"A": str(slide)})[1] == []
    fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)


@pytest.mark.parametrize("whole", [False, True])
def test_a_scene_s_id_is_not_its_file_s(tmp_path, whole):
    rows = [("A1", 1), ("A2", 2), *([("A", None)] if whole else [])]
    for slide_id, scene in rows:
        row = {"slide_id": slide_id, "uri": "/s/A.tif", "status": "done", "scene": scene}
        path = output_of(tmp_path).paths.record(slide_id)
        path.parent.mkdir(exist_ok=True)
        keep_record(SlideRecord(row), path)
    known = known_ids_of(output_of(tmp_path))
    assert known.get("/s/A.tif") == ("A" if whole else None)
    assert sorted(known.values()) == sorted(slide_id for slide_id, _ in rows)
