"""What `muse status` says of real folders: running, cut off, at rest, of another command, of none."""

import json
import time

import pytest
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.cohort.heartbeat import Heartbeat, own_facts, own_kernel, read_run
from muse_core.cohort.paths import RunPaths, claim
from muse_core.cohort.records import SlideRecord, keep_record
from muse_core.cohort.status import read_status, status_text
from muse_core.errors import ConfigError

GONE = 2**22 + 1  # above the kernel's highest process id


@pytest.fixture
def paths(tmp_path):
    """A folder with two slides done and one failed."""
    paths = RunPaths(tmp_path / "out")
    paths.out.mkdir()
    claim(paths, "infer")
    for slide_id, status, reason in (("A", "done", None), ("B", "done", None), ("C", "failed", "unreadable")):
        row = {"slide_id": slide_id, "status": status, "reason": reason, "message": f"{slide_id}.svs: no slide"}
        keep_record(SlideRecord({**row, "n_nuclei": 1000, "tissue_mm2": 2.0}, "h"), paths.record(slide_id))
    return paths


def test_a_running_one_says_who_how_fast_and_how_long_still(paths):
    with Heartbeat(paths.run, own_facts("infer", "2 local Dask workers")) as heartbeat:
        heartbeat.expect(9)
        run = read_run(paths.run)
        for slide_id in "AB":
            keep_record(
                SlideRecord({"slide_id": slide_id, "status": "done", "tissue_mm2": 2.0}, "h"), paths.record(slide_id)
            )
        status = read_status(paths.out, now=run.started + 3600)
        assert (status.state, status.slides, status.done, status.failed, status.done_now) == ("running", 9, 2, 1, 2)
        assert status.slides_per_hour == pytest.approx(2)
        assert status.mm2_per_hour == pytest.approx(4)
        assert status.seconds_left == pytest.approx(3 * 3600)
        assert status.failures_by_reason == {"unreadable": 1}
        words = status_text(status)
        assert "2 local Dask workers" in words
        assert "3 h 00 min left" in words
        assert "C: C.svs: no slide" in words
    assert read_status(paths.out).state == "at rest"


@pytest.mark.parametrize(
    ("kernel", "pid", "beat_ago_s", "state"),
    [(own_kernel(), GONE, 0, "cut off"), ("another 1", GONE, 15, "running"), ("another 1", 1, 300, "cut off")],
)
def test_a_run_that_is_gone_is_found_out_also_from_another_machine(paths, kernel, pid, beat_ago_s, state):
    now = time.time()
    facts = {"command": "infer", "host": "h", "pid": pid, "started": now - 600, "slides": 9, "workers": "this process"}
    paths.run.write_text(json.dumps({**facts, "kernel": kernel, "beat": now - beat_ago_s}))
    status = read_status(paths.out, now=now)
    assert status.state == state
    assert ("run the same command again" in status_text(status)) == (state == "cut off")


def test_a_folder_that_no_run_made_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run has worked there"):
        read_status(tmp_path)


def test_the_command_says_it_in_openmetrics(paths):
    done = CliRunner().invoke(app, ["status", "--out", f"{paths.out}", "--openmetrics"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "# EOF"
    labels = f'folder="{paths.out}",command="infer"'
    assert f'muse_slides{{{labels},status="done"}} 2' in lines
    assert f'muse_slides_failed{{{labels},reason="unreadable"}} 1' in lines
    assert f"muse_nuclei{{{labels}}} 3000" in lines
    assert f"muse_run_up{{{labels}}} 0" in lines
    assert not any(line.startswith("muse_slides_per_hour") for line in lines), "no run, no pace"
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)
    assert CliRunner().invoke(app, ["status", "--out", f"{paths.out}", "--openmetrics", "--json"]).exit_code == 2


def test_the_command_says_it_in_words_and_json(paths):
    done = CliRunner().invoke(app, ["status", "--out", str(paths.out), "--json"])
    assert done.exit_code == 0
    assert "2 done, 1 failed, 0 skipped, of 3" in done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["done"], answer["n_nuclei"], answer["run"]) == (2, 3000, None)
