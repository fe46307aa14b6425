"""`muse` as people type it: exit statuses, one-line errors, JSON on the last line."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from muse_core.cli.app import GROUPS, app
from muse_core.cli.evaluate import evaluate_app
from muse_core.cli.manifest import manifest_app
from muse_core.cli.nuclei import export_app
from muse_core.cohort.manifest.gdc import default_hold_out_paths, read_hold_out
from tests.command import Ended, run_muse
from tests.data.gdc_server import GdcServer

HEADER = "slide_id,case_id,project,uri,size,md5,mpp\n"


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def assert_one_line(done: Ended, status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("muse: ")
    for word in words:
        assert word in lines[0]


def command_names() -> list[list[str]]:
    top = [name for group in GROUPS.values() for name in group]
    groups = {"manifest": manifest_app, "evaluate": evaluate_app, "export": export_app}
    inner = [[name, one.name] for name, group in groups.items() for one in group.registered_commands]
    return [[name] for name in top if name not in groups] + inner


@pytest.mark.parametrize("command", command_names(), ids=" ".join)
def test_every_command_has_help_with_an_example(command, capfd):
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output + capfd.readouterr().out, "deploy's is printed by a process of its own"


def test_help_lists_every_command_in_a_group_in_the_order_of_the_data_whole_at_80_columns():
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).output
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted({words[0] for words in command_names()})
    places = [shown.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)
    assert all(heading + ":" in shown for heading in GROUPS)
    commands = get_command(app).commands
    told = {name: command.told for group in GROUPS.values() for name, command in group.items()}
    assert told == {name: commands[name].get_short_help_str(1000) for name in told}, "as each command says of itself"
    assert "..." not in shown.replace("[ARGS]...", "")


HEAVY = ("torch", "prefect", "distributed", "pandas", "matplotlib", "geopandas", "scipy", "muse_core.slide")
IMPORTED = """
import sys
from muse_core.cli.app import app
try:
    app(sys.argv[1:])
except SystemExit:
    pass
sys.stderr.write(" ".join(sys.modules))
"""


def modules_of(*arguments: str) -> set[str]:
    """What a process has imported once it has run a command."""
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], (*HEAVY, "cv2", "numpy", "muse_core.cli.infer")),
        (["status", "--help"], (*HEAVY, "cv2", "numpy")),
        (["doctor", "--help"], HEAVY[:-1]),
        (["infer", "--help"], HEAVY[:-1]),
        (["build-tcga-nu", "--help"], HEAVY[:-1]),
        (["train-detector", "--help"], HEAVY),
        (["pretrain", "--help"], HEAVY),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_what_it_needs(arguments, absent):
    found = modules_of(*arguments)
    assert sorted(found & set(absent)) == []
    assert "muse_core.cli.app" in found


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"muse {version('muse-nuclei')}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no-such.csv"]),
        ("", ["empty"]),
        (HEADER, ["no slide"]),
        ("a,b\n1,2\n", ["slide_id"]),
    ],
    ids=["missing", "empty", "header only", "other columns"],
)
def test_a_manifest_that_is_none_is_one_line(tmp_path, text, words):
    manifest = tmp_path / "no-such.csv"
    if text is not None:
        manifest.write_text(text)
    done = run_muse("build-tcga-nu", "--manifest", manifest, "--out", tmp_path / "out", "--workers", "0")
    assert_one_line(done, 1, *words)
    assert not (tmp_path / "out" / "slides.parquet").exists()


def test_a_windows_manifest_with_a_mark_builds(drawn, tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}S,C,P,{drawn[0]},,,\n".replace("\n", "\r\n").encode())
    small = ["--set", "rois.size_px=1024", "--set", "rois.max_per_slide=2"]
    done = run_muse(
        "build-tcga-nu", "--manifest", tmp_path / "m.csv", "--out", tmp_path / "o", "--workers", "0", "--json", *small
    )
    assert done.returncode == 0, done.stderr
    summary = last_json(done.stdout)
    assert (summary["slides_done"], summary["n_rois"], summary["failures"]) == (1, 2, [])
    expected = {
        "slides_done",
        "slides_failed",
        "slides_skipped",
        "n_nuclei",
        "tissue_mm2",
        "seconds",
        "seconds_per_mm2",
    }
    assert expected | {"peak_rss_bytes", "failures"} <= set(summary)


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--set", "rois.max_per_slid=3"], 2, "max_per_slide"),
        (["--set", "rois.mpp=fine"], 2, "rois.mpp"),
        (["--set", "nonsense"], 2, "key=value"),
        (["--config", "none.toml"], 2, "none.toml"),
        (["--set", "detector=no.such.module:thing"], 2, "no.such.module"),
        (["--device", "tpu"], 2, "auto, cpu"),
        (["--mpp", "0"], 2, "µm/px"),
        (["--tissue", "nowhere"], 2, "nowhere"),
        (["--dask-scheduler", "garbage"], 2, "tcp://"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_starts(drawn, tmp_path, arguments, status, word):
    (tmp_path / "m.csv").write_text(f"{HEADER}S,C,P,{drawn[0]},,,\n")
    build = ["build-tcga-nu", "--manifest", tmp_path / "m.csv", "--out", tmp_path / "out", "--workers", "0"]
    assert_one_line(run_muse(*build, *arguments, cwd=tmp_path), status, word)
    assert not (tmp_path / "out" / "rois").exists()


@pytest.mark.parametrize(
    ("command", "status", "reason", "word"),
    [
        (["build-tcga-nu", "--manifest", "gone.csv", "--out", "o"], 1, "manifest_invalid", "gone.csv"),
        (["pretrain", "--rois", "gone", "--out", "o"], 1, "dataset_invalid", "gone"),
        (["evaluate", "knn", "--dataset", "nobodys", "--data", "d"], 2, "config_invalid", "nobodys"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_went_wrong_is_the_json_of_any_command(tmp_path, command, status, reason, word):
    done = run_muse(*command, "--json", cwd=tmp_path)
    assert_one_line(done, status, word)
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {"error": done.stderr.strip().removeprefix("muse: "), "reason": reason}


def test_wrong_usage_is_exit_status_2(tmp_path):
    assert run_muse("build-tcga-nu", "--out", tmp_path).returncode == 2
    assert run_muse("no-such-command").returncode == 2


@pytest.mark.parametrize("out", ["file/below", "/proc/none"], ids=["under a file", "read-only"])
def test_an_output_that_cannot_be_written_is_one_line(drawn, tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "m.csv").write_text(f"{HEADER}S,C,P,{drawn[0]},,,\n")
    done = run_muse("build-tcga-nu", "--manifest", "m.csv", "--out", out, "--workers", "0", cwd=tmp_path)
    assert_one_line(done, 1, out, "--out")


def test_no_dask_scheduler_there_is_one_line(drawn, tmp_path):
    (tmp_path / "m.csv").write_text(f"{HEADER}S,C,P,{drawn[0]},,,\n")
    address = "tcp://127.0.0.1:9"
    done = run_muse(
        "build-tcga-nu", "--manifest", tmp_path / "m.csv", "--out", tmp_path / "o", "--dask-scheduler", address
    )
    assert_one_line(done, 2, address, "dask scheduler")


def test_manifest_check_names_every_problem_with_its_row(tmp_path):
    (tmp_path / "here.svs").write_text("x")
    rows = [
        "A,C,P,here.svs,,,",
        "A,C,P,here.svs,,,",
        "B,C,P,gone.svs,-3,abc,nine",
        ",C,P,here.svs,,,",
        "C,C,P,here.svs,,,0.25",
    ]
    (tmp_path / "m.csv").write_text(HEADER + "\n".join(rows) + "\n")
    done = run_muse("manifest", "check", tmp_path / "m.csv", "--json")
    assert done.returncode == 1
    answer = last_json(done.stdout)
    assert answer["rows"] == 1
    assert {problem["row"] for problem in answer["problems"] if problem["severity"] == "error"} == {2, 3, 4, 5}
    good = tmp_path / "good.csv"
    good.write_text(HEADER + rows[4] + "\n")
    assert run_muse("manifest", "check", good).returncode == 0


def gdc_hit(number: int, patient: str) -> dict[str, object]:
    file_id = f"{number:08d}-0000-0000-0000-000000000000"
    return {
        "file_id": file_id,
        "file_name": f"{patient}-01Z-00-DX1.{file_id}.svs",
        "md5sum": f"{number:032x}",
        "file_size": 10**9,
        "access": "open",
        "data_format": "SVS",
        "data_type": "Slide Image",
        "experimental_strategy": "Diagnostic Slide",
        "cases": [{"submitter_id": patient, "project": {"project_id": "TCGA-BRCA"}}],
    }


def test_manifest_gdc_writes_the_cohort_without_held_out_patients(tmp_path):
    (tmp_path / "mine.txt").write_text("TCGA-XX-0001\n")
    brca, ocelot = default_hold_out_paths()
    held_out = sorted(read_hold_out(brca))[0]
    with GdcServer() as server:
        patients = [held_out, "TCGA-XX-0001", "TCGA-XX-0002"]
        server.hits = [gdc_hit(number, patient) for number, patient in enumerate(patients)]
        out = tmp_path / "tcga.csv"
        done = run_muse(
            "manifest", "gdc", "--api", server.url, "--out", out, "--hold-out", tmp_path / "mine.txt", "--json"
        )
        assert done.returncode == 0, done.stderr
        every = run_muse("manifest", "gdc", "--api", server.url, "--out", tmp_path / "all.csv", "--no-default-hold-out")
        assert "3 slides" in every.stdout
    answer = last_json(done.stdout)
    assert (answer["slides"], answer["held_out"]) == (1, {brca.name: 1, ocelot.name: 0, "mine.txt": 1})
    assert "TCGA-XX-0002" in out.read_text()
    assert run_muse("manifest", "check", out).returncode == 0


def test_doctor_says_what_there_is():
    done = run_muse("doctor", "--json")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in last_json(done.stdout)["checks"]}
    assert len(checks) > 5
    assert all(check["fix"] for check in checks.values() if not check["ok"])
