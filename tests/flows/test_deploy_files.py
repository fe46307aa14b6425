"""What `deploy/` holds starts programs that exist, with settings that are told."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_containers_start_programs_that_are_installed():
    ours = {name: one for name, one in COMPOSE["services"].items() if one["image"].startswith("muse:")}
    assert {"server", "deploy", "worker-cpu", "worker-gpu", "scheduler", "dask-worker"} == set(ours)
    assert all((BIN / one["command"][0]).exists() for one in ours.values())
    pools = {one["command"][-1] for name, one in ours.items() if name.startswith("worker")}
    deployments = yaml.safe_load((DEPLOY / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert pools == {one["work_pool"]["name"] for one in deployments}


def test_only_the_server_is_reachable_and_from_here_alone():
    ports = {name: one["ports"] for name, one in COMPOSE["services"].items() if "ports" in one}
    assert set(ports) == {"server"}
    assert all(port.startswith("127.0.0.1:") for port in ports["server"])


@pytest.mark.skipif(sys.platform != "linux", reason="GNU find and xargs")
def test_old_unfinished_work_goes_and_nothing_else(tmp_path):
    out, old = tmp_path / "out of a run", time.time() - 20 * 86400
    kept = [".staging/B b/h-1/x", "slides/new.svs", "records/A.json", "nuclei/P/A/part-0.parquet", "command.txt"]
    for name in [*kept, ".staging/A/h-1/x", "slides/old.svs"]:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("infer")
    for path in [*out.rglob("*"), out]:
        if "B b" not in str(path) and path.name != "new.svs":
            os.utime(path, (old, old))
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "MUSE_WORK": str(tmp_path / "none")}
    script = ["bash", str(DEPLOY / "retention.sh")]
    for days in ("14d", "0", ""):
        refused = subprocess.run([*script, "--days", days, str(out)], env=environment, capture_output=True, text=True)
        assert refused.returncode == 2
        assert f"--days '{days}': a whole number of days, 1 or more, needed" in refused.stderr
    assert (out / "slides/old.svs").exists()
    subprocess.run([*script, str(out)], env=environment, check=True)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(kept)


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").iterdir()), ids=lambda unit: unit.name)
def test_services_start_programs_that_are_installed(unit):
    (command,) = [line for line in unit.read_text(encoding="utf-8").splitlines() if line.startswith("ExecStart=")]
    assert (BIN / Path(command.removeprefix("ExecStart=").split()[0]).name).exists()
