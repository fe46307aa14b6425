"""The flow over slides and a watched folder, with Prefect's own server."""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client

from flows.infer_slides import infer_slides
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR
from tests.data.make_slides import Drawing, draw_aperio, tissue_image

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A slide of 0.2 x 0.2 mm."""
    image, _ = tissue_image(900, 800, mpp=0.25, seed=4)
    return draw_aperio(tmp_path_factory.mktemp("tiny") / "tiny.svs", image, Drawing(factors=(1, 4)))


def slide_runs() -> int:
    """Task runs that did a slide, in all flow runs so far."""
    with get_client(sync_client=True) as client:
        return sum(run.name.startswith("infer ") for run in client.read_task_runs())


def statuses(out: Path) -> dict[str, str | None]:
    return {row["slide_id"]: row["reason"] for row in pq.read_table(out / "slides.parquet").to_pylist()}


@pytest.mark.slow
def test_a_watched_folder_is_taken_as_it_fills(tiny, artifacts, tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()

    def run():
        return infer_slides(
            inbox, out, checkpoint=NUCLEUS_DETECTOR, watch=True, settled_minutes=0.002, device="cpu", return_state=True
        )

    def put(name: str) -> None:
        shutil.copy(tiny, inbox / name)
        os.utime(inbox / name, (1e9, 1e9))

    state = run()
    assert state.is_completed()
    assert state.result()["slides_done"] == 0
    assert not (out / "report.html").exists()

    put("a.svs")
    put("growing.svs")
    assert run().result()["slides_done"] == 0, "an old time stamp tells nothing of a copy that may not have ended"
    put("growing.svs")
    before = slide_runs()
    assert run().result()["slides_done"] == 1
    assert statuses(out) == {"a": None}, "what has just changed is left for the next time"
    assert slide_runs() - before == 1
    report = (out / "report.html").read_text(encoding="utf-8")

    before = slide_runs()
    result = run().result()
    assert (result["slides_done"], result["slides_reused"]) == (2, 1)
    assert slide_runs() - before == 1, "a finished slide takes no task run"
    assert (out / "report.html").read_text(encoding="utf-8") != report

    written = (out / "report.html").stat().st_mtime_ns
    before = slide_runs()
    assert run().result()["slides_reused"] == 2
    assert slide_runs() == before
    assert (out / "report.html").stat().st_mtime_ns == written, "nothing changed"

    shown = artifacts()
    assert shown["infer-slides-progress"] == 100.0
    assert {row["slide_id"] for row in json.loads(shown["infer-slides-slides"])} == {"a", "growing"}


@pytest.mark.slow
def test_a_broken_file_of_a_watched_folder_is_told_once_and_left_alone(tiny, tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    (inbox / "bad.svs").write_text("no slide")

    def run():
        return infer_slides(inbox, out, checkpoint=NUCLEUS_DETECTOR, watch=True, device="cpu", return_state=True)

    state = run()
    assert state.is_failed()
    assert str(state.message).startswith("bad: unreadable: ")
    shutil.copy(tiny, inbox / "good.svs")
    before = slide_runs()
    state = run()
    assert state.is_completed(), state.message
    assert slide_runs() - before == 1, "the broken one waits"
    assert statuses(out) == {"bad": "unreadable", "good": None}
    assert run().is_completed()
    kept = json.loads((out / "inbox.json").read_text(encoding="utf-8"))["quarantine"]["bad"]
    assert (kept["reason"], kept["tries"]) == ("unreadable", 1)
    shutil.copy(tiny, inbox / "bad.svs")
    state = run()
    assert state.is_completed()
    assert statuses(out) == {"bad": None, "good": None}, "another file under that name is tried at once"


@pytest.mark.slow
def test_a_slide_that_waits_does_not_hold_up_another_model(tiny, tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(tiny, inbox / "s.svs")

    def run(checkpoint: Path, settled_minutes: float):
        return infer_slides(
            inbox,
            out,
            checkpoint=checkpoint,
            watch=True,
            settled_minutes=settled_minutes,
            device="cpu",
            return_state=True,
        )

    assert run(NUCLEUS_DETECTOR, 0.0).is_completed()
    os.utime(inbox / "s.svs", (1e9, 1e9))  # being copied again
    state = run(MUSE_NANO_NDC, 10.0)
    assert state.is_completed(), state.message


def test_a_bad_slide_fails_the_flow_and_loses_nothing(tiny, artifacts, tmp_path):
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    (tmp_path / "bad.svs").write_text("no slide")
    manifest.write_text(f"slide_id,case_id,project,uri\nbad,C,P,bad.svs\ngood,C,P,{tiny}\n")
    state = infer_slides(manifest, out, checkpoint=NUCLEUS_DETECTOR, device="cpu", return_state=True)
    assert state.is_failed()
    assert "1 slides failed" in str(state.message)
    assert statuses(out) == {"bad": "unreadable", "good": None}
    shown = artifacts()
    rows = json.loads(shown["infer-slides-slides"])
    assert [row["slide_id"] for row in rows] == ["bad", "good"]
    assert rows[1]["seconds_per_mm2"] > 0
    summary = str(shown["infer-slides-summary"])
    assert "s/mm²" in summary
    assert "network idle" in summary
    assert "| class | nuclei | share | per mm² of tissue |" in summary
    link = str(shown["infer-slides-report"])
    target = link[link.index("file://") :].rstrip(")")
    page = Path(unquote(urlsplit(target).path))
    assert page == out / "report.html"
    assert "good" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_report_that_cannot_be_written_fails_no_run_that_is_done(tiny, tmp_path, caplog):
    out, file = tmp_path / "out", tmp_path / "file"
    file.touch()
    state = infer_slides(
        tiny, out, checkpoint=NUCLEUS_DETECTOR, device="cpu", report=file / "report.html", return_state=True
    )
    assert state.is_completed(), state.message
    assert state.result()["slides_done"] == 1
    (line,) = [one for one in caplog.records if "the report is not written" in one.message]
    assert str(file) in line.message
    assert line.exc_info is None


@pytest.mark.slow
def test_tiles_that_could_not_be_read_fail_the_flow_and_not_their_slide(artifacts, tmp_path):
    image, _ = tissue_image(3000, 800, mpp=0.25, seed=4)
    slide = draw_aperio(tmp_path / "s.svs", image, Drawing(factors=(1, 4), tile_px=240, broken_tile=(1, 1)))

    def run():
        overrides = ("window_px=384",)
        return infer_slides(
            slide, tmp_path / "out", checkpoint=NUCLEUS_DETECTOR, device="cpu", overrides=overrides, return_state=True
        )

    state = run()
    assert state.is_failed()
    assert re.match(r"\d of \d+ tiles, of 1 slides, could not be read; everything else is kept", str(state.message))
    assert statuses(tmp_path / "out") == {"s": "bad_tiles"}
    (row,) = json.loads(artifacts()["infer-slides-slides"])
    assert (row["status"], row["n_failed_tiles"] > 0, row["n_nuclei"] > 0) == ("done", True, True)
    before = slide_runs()
    assert run().is_failed(), "as long as the tables lack them"
    assert slide_runs() == before


def test_nothing_to_do_is_an_error_unless_watched(tmp_path):
    (tmp_path / "empty").mkdir()
    state = infer_slides(
        tmp_path / "empty", tmp_path / "out", checkpoint=NUCLEUS_DETECTOR, device="cpu", return_state=True
    )
    assert state.is_failed()
    assert "no slide in it" in str(state.message)
    state = infer_slides(
        tmp_path / "gone", tmp_path / "out", checkpoint=NUCLEUS_DETECTOR, watch=True, return_state=True
    )
    assert state.is_failed()
    assert "no such file" in str(state.message)
