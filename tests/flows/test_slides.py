"""What flows over slides share: one line for a mistake, work that goes on without a server, small slides together."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.artifacts import Progress, artifact_key, publish, publish_link
from flows.build_tcga_nu import build_tcga_nu
from flows.slides import MOST_SLIDES_A_TASK, SMALL_BYTES, batches_of
from muse_core.cohort.manifest import ManifestRow
from muse_core.machine.lock import locked
from tests.data.make_slides import Drawing, draw_aperio, tissue_image
from tests.data.tcp_gate import TcpGate

SMALL = ("rois.size_px=512", "rois.max_per_slide=2", "contact_sheets=false", "detector=none")

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A slide of 0.5 x 0.5 mm."""
    image, _ = tissue_image(2000, 2000, mpp=0.25, seed=4)
    return draw_aperio(tmp_path_factory.mktemp("tiny") / "tiny.svs", image, Drawing(factors=(1, 4)))


def build(manifest: Path, out: Path):
    return build_tcga_nu(manifest, out, overrides=SMALL, workers=0, return_state=True)


def manifest_of(folder: Path, slides: dict[str, Path]) -> Path:
    rows = "".join(f"{name},C,P,{path}\n" for name, path in slides.items())
    (folder / "m.csv").write_text("slide_id,case_id,project,uri\n" + rows)
    return folder / "m.csv"


def row(slide_id: str, size: int | None, uri: str = "gdc://8f8d8e3e-0000-4000-8000-000000000000") -> ManifestRow:
    return ManifestRow(1, slide_id, "C", "P", uri, size, None, None)


def test_a_missing_manifest_is_one_line(tmp_path, caplog):
    state = build(tmp_path / "none.csv", tmp_path / "out")
    assert state.is_failed()
    assert str(state.message).startswith(f"manifest {tmp_path / 'none.csv'}: no such file")
    assert "Traceback" not in caplog.text


def test_a_failed_slide_is_one_line(tmp_path, caplog):
    (tmp_path / "bad.svs").write_text("no slide")
    assert build(manifest_of(tmp_path, {"bad": tmp_path / "bad.svs"}), tmp_path / "out").is_failed()
    assert "bad: failed, unreadable" in caplog.text
    assert "NoneType" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_a_folder_that_another_run_holds_is_skipped(tiny, tmp_path):
    manifest = manifest_of(tmp_path, {"S": tiny})
    with locked(tmp_path / "out"):
        state = build(manifest, tmp_path / "out")
    assert (state.is_cancelled(), state.name) == (True, "Skipped")
    assert "another run is writing here" in str(state.message)
    assert build(manifest, tmp_path / "out").is_completed()


@pytest.mark.slow
def test_what_cannot_be_shown_stops_nothing(caplog):
    server = urlsplit(PREFECT_API_URL.value())
    with TcpGate(str(server.hostname), int(server.port)) as gate:

        @flow
        def shows() -> str:
            gate.shut()
            publish([{"a": 1}], "text", key="k", of="rows", description="d")
            publish_link("http://127.0.0.1:9", "text", key="k", of="report")
            Progress("k", done=0, of=2, unit="slides").update(2, "S")
            key = artifact_key("k")
            gate.open()
            return key

        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{gate.port}/api"}):
            assert shows() == "k"
    for what in ("the table of rows", "the summary", "the link to the report", "the progress"):
        assert f"{what} cannot be shown now" in caplog.text


def test_numbers_are_shown_short(artifacts, tmp_path):
    @flow
    def shows() -> None:
        publish([{"mm2": 0.12345678901234567, "n": 123456789}], "", key="short", of="rows", description="d")

    shows()
    assert json.loads(str(artifacts()["short-rows"])) == [{"mm2": 0.1235, "n": 123456789}]


def test_small_slides_share_task_runs_and_large_ones_do_not():
    rows = [row(f"{number}", 1000) for number in range(300)] + [row("large", SMALL_BYTES), row("unknown", None)]
    batches = list(batches_of(rows, at_once=4))
    assert sorted(one.slide_id for batch in batches for one in batch.rows) == sorted(one.slide_id for one in rows)
    sizes = [len(batch.rows) for batch in batches]
    assert max(sizes) == 300 // 8
    assert {str(batch) for batch in batches if len(batch.rows) == 1} == {"large", "unknown"}
    assert str(batches[0]) == "0 … 36 (37 slides)"
    assert max(len(batch.rows) for batch in batches_of(rows * 30, at_once=4)) == MOST_SLIDES_A_TASK
    assert [len(batch.rows) for batch in batches_of(rows[:3], at_once=4)] == [1, 1, 1]


@pytest.mark.slow
def test_one_of_a_batch_fails_alone_and_a_run_without_work_shows_nothing(tiny, artifacts, tmp_path):
    slides = {}
    for number in range(5):
        slides[f"S{number}"] = Path(shutil.copy(tiny, tmp_path / f"{number}.svs"))
    (tmp_path / "2.svs").write_text("no slide")
    manifest = manifest_of(tmp_path, slides)

    def task_runs() -> int:
        with get_client(sync_client=True) as client:
            return len(client.read_task_runs(limit=200))

    before = task_runs()
    state = build(manifest, tmp_path / "out")
    assert "1 slides failed" in str(state.message)
    assert 1 < task_runs() - before <= 5
    rows = json.loads(str(artifacts()["build-tcga-nu-slides"]))
    assert [(one["slide_id"], one["status"]) for one in rows][:2] == [("S2", "failed"), ("S0", "done")]
    assert list(rows[0])[:4] == ["slide_id", "status", "reason", "message"]

    shutil.copy(tiny, tmp_path / "2.svs")
    assert build(manifest, tmp_path / "out").is_completed()
    shown, before = artifacts(), task_runs()
    with get_client(sync_client=True) as client:
        n_artifacts = len(client.read_artifacts())
    assert build(manifest, tmp_path / "out").is_completed()
    with get_client(sync_client=True) as client:
        assert len(client.read_artifacts()) == n_artifacts
    assert (artifacts(), task_runs()) == (shown, before)
