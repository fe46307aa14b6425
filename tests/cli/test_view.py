"""`muse view` and `muse teach` from the command line: addresses, and one line for each mistake."""

import json
import signal
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from muse_core.cli.app import app
from tests.command import run_muse
from tests.data.make_nuclei import write_slide

MUSE = [sys.executable, "-m", "muse_core.cli"]


def test_the_viewer_tells_its_address_keeps_it_and_ends_politely(tmp_path):
    write_slide(tmp_path, 100)
    addresses = []
    for _ in range(2):
        command = [*MUSE, "view", "--nuclei", str(tmp_path), "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [process.stdout.readline() for _ in range(3)]
            addresses.append(told[0].removeprefix("Open ").strip())
            assert httpx.get(f"{addresses[-1]}api/run", timeout=60).json()["slides"][0]["slide_id"] == "S1"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
    assert str(tmp_path / "lab") in told[1]
    assert "ssh -L" in told[2]
    assert addresses[0].startswith("http://127.0.0.1:")
    assert addresses[0] == addresses[1], "pages left open go on"
    kept = tmp_path / "lab" / "address.json"
    assert kept.stat().st_mode & 0o077 == 0, "the token is its owner's"
    assert json.loads(kept.read_text())["token"] in addresses[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["view", "--nuclei", "{empty}"], "no nuclei dataset"),
        (["view", "--nuclei", "{run}", "--slides", "{empty}/none"], "none"),
        (["view", "--nuclei", "{run}", "--port", "80000"], "--port 80000: taken or not allowed"),
        (["teach", "--labels", "{empty}", "--nuclei", "{run}", "--infer", "S9"], "slide 'S9': not in"),
        (["teach", "--labels", "{empty}", "--nuclei", "{run}"], "give it with --checkpoint"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, line):
    (tmp_path / "empty").mkdir()
    write_slide(tmp_path / "run", 100)
    done = run_muse(*(one.format(empty=tmp_path / "empty", run=tmp_path / "run") for one in arguments))
    assert done.returncode in (1, 2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert line in lines[0]


def test_settings_of_teaching_that_a_file_does_not_name_stay_those_of_teaching(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("muse_core.ndc.teach.teach", lambda labels, *, settings, **given: found.append(settings))
    write_slide(tmp_path / "run", 100)
    (tmp_path / "f.toml").write_text("[loss]\ntype = 2.0\n")
    words = [
        "teach",
        "--labels",
        str(tmp_path),
        "--nuclei",
        str(tmp_path / "run"),
        "--config",
        str(tmp_path / "f.toml"),
    ]
    CliRunner().invoke(app, [*words, "--checkpoint", str(tmp_path / "f.toml")])
    assert [(one.loss.type, one.loss.cons_start, one.loss.cons_ramp) for one in found] == [(2.0, 0.0, 0.0)]
