"""A data engineer's day for real: server, deploy, worker, a Dask cluster of its own, one of its workers killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from muse_core.demo import draw_slide

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WAIT_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(name: str, command: list[str], environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen]:
    """A program in the background, with its output in a file, and all its children gone at the end."""
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(what: str, ready, seconds: float = WAIT_S) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ready():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def flow_run_state(api: str, flow_run_id: str) -> str:
    return str(httpx.get(f"{api}/flow_runs/{flow_run_id}", timeout=10).json()["state"]["type"])


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files a deployment needs, in a folder of their own."""
    for name in ("flows", "deploy", "data_manifests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for number in range(4):
        draw_slide(tmp_path / f"{number}.svs", 9600, 7200)
    rows = "".join(f"S{number},C{number},P,{tmp_path / f'{number}.svs'}\n" for number in range(4))
    (tmp_path / "slides.csv").write_text("slide_id,case_id,project,uri\n" + rows)
    return tmp_path


def test_deployment_completes_although_a_dask_worker_is_killed(checkout):
    api, dask = f"http://127.0.0.1:{free_port()}/api", f"tcp://127.0.0.1:{free_port()}"
    environment = os.environ | {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(checkout / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    def prefect(*arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "prefect"), "--no-prompt", *arguments],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(stack: ExitStack, name: str, *command: str) -> subprocess.Popen:
        return stack.enter_context(running(name, [str(BIN / command[0]), *command[1:]], environment, checkout))

    with ExitStack() as stack:
        port = api.split(":")[2].removesuffix("/api")
        start(stack, "server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        scheduler_port = dask.rpartition(":")[2]
        start(
            stack, "scheduler", "dask", "scheduler", "--host", "127.0.0.1", "--port", scheduler_port, "--no-dashboard"
        )
        doomed = start(stack, "doomed", "dask", "worker", dask, "--nthreads", "1", "--no-dashboard")
        start(stack, "steady", "dask", "worker", dask, "--nthreads", "1", "--no-dashboard")
        wait_for("the server", lambda: answers(f"{api}/health"))
        prefect("work-pool", "create", "muse-cpu", "--type", "process")
        prefect("deploy", "--prefect-file", "deploy/prefect.yaml", "--all")
        assert "build-tcga-nu/tcga" in prefect("deployment", "ls")
        start(stack, "worker", "prefect", "worker", "start", "--pool", "muse-cpu")
        out = checkout / "out"
        parameters = {
            "manifest": str(checkout / "slides.csv"),
            "out": str(out),
            "dask_scheduler": dask,
            "overrides": ["chunk_rois=1"],
        }
        prefect("deployment", "run", "build-tcga-nu/sample", "--params", json.dumps(parameters))
        runs = httpx.post(f"{api}/flow_runs/filter", json={}, timeout=10).json()
        run_id = next(run["id"] for run in runs if run["parameters"].get("out") == str(out))
        wait_for("the first parts", lambda: list(out.glob(".staging/*/*/part-*.parquet")) or list(out.glob("rois/*/*")))
        os.killpg(doomed.pid, signal.SIGKILL)
        wait_for("the flow run's end", lambda: flow_run_state(api, run_id) in ("COMPLETED", "FAILED", "CRASHED"))
        assert flow_run_state(api, run_id) == "COMPLETED", (checkout / "worker.log").read_text()[-4000:]
        artifacts = httpx.post(f"{api}/artifacts/filter", json={}, timeout=10).json()
    statuses = {row["slide_id"]: row["status"] for row in pq.read_table(out / "slides.parquet").to_pylist()}
    assert statuses == {f"S{number}": "done" for number in range(4)}
    assert {artifact["key"] for artifact in artifacts} == {
        f"build-tcga-nu-{name}" for name in ("progress", "slides", "summary")
    }
