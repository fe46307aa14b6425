"""The doctor finds what is there, and says what to do about what is not."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from muse_core.cli import doctor
from muse_core.cli.doctor import Check, diagnose
from muse_core.slide.self_check import ReaderCheck


@pytest.fixture
def checks(tmp_path, monkeypatch) -> dict[str, Check]:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return {check.name: check for check in diagnose(tmp_path / "not" / "yet")}


def test_every_part_is_looked_at(checks):
    names = {
        "Python",
        "openslide",
        "cucim",
        "tifffile",
        "imagecodecs",
        "torch",
        "GPU",
        "OpenVINO",
        "Prefect",
        "CPU cores",
        "Memory",
        "Disk",
    }
    assert set(checks) == names


def test_readers_decode_here(checks):
    for name in ("openslide", "cucim", "tifffile"):
        assert checks[name].ok, checks[name]
        assert "decodes on the CPU" in checks[name].found


def test_only_what_is_amiss_has_a_fix(checks):
    assert all(bool(check.fix) != check.ok for check in checks.values())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ReaderCheck("cucim", None, "cucim: No module named 'cucim'"), "not installed"),
        (ReaderCheck("cucim", "26.10.0", "cucim: cannot load"), "26.10.0, does not decode: cucim: cannot load"),
    ],
)
def test_a_reader_that_does_not_serve_has_its_fix(monkeypatch, found, words):
    monkeypatch.setattr(doctor, "check_readers", lambda: [found])
    check = next(one for one in diagnose() if one.name == "cucim")
    assert not check.ok
    assert words in check.found
    assert "cucim-cu13" in check.fix


def test_a_prefect_api_that_answers_and_one_that_does_not(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        alive = next(one for one in diagnose() if one.name == "Prefect")
        server.shutdown()
        thread.join()
    gone = next(one for one in diagnose() if one.name == "Prefect")
    assert alive.ok
    assert alive.found.endswith("answers")
    assert not gone.ok
    assert "does not answer" in gone.found
    assert "prefect server start" in gone.fix


def test_too_little_of_the_machine(monkeypatch):
    monkeypatch.setattr(doctor, "memory_limit_bytes", lambda: 1 << 30)
    check = next(one for one in diagnose() if one.name == "Memory")
    assert (check.ok, check.found) == (False, "1.0 GiB usable")
    assert "--workers 1" in check.fix


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests keep standard error clean."""


@pytest.mark.parametrize(("version", "ok"), [("2.0.58", True), ("2.1.9", False), ("2.1.0b1", False)])
def test_a_sqlalchemy_with_which_no_schedule_fires_is_told(monkeypatch, version, ok):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    found = {"prefect": "3.8.8", "SQLAlchemy": version}
    monkeypatch.setattr(doctor, "installed_version", lambda package: found.get(package))
    bad = [check for check in diagnose() if check.name == "Prefect schedules"]
    assert bool(bad) != ok
    for check in bad:
        assert not check.ok
        assert "never fires a schedule" in check.found
        assert "pip install" in check.fix
