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
import psutil
import pyarrow.parquet as pq
import pytest

from muse_core.slide.drawn import draw_slide

ROOT = Path(__file__).parents[2]
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
    return tmp_path


class Installation:
    """A server with every deployment, and a worker of each pool; `stack` ends them all."""

    def __init__(self, stack: ExitStack, checkout: Path) -> None:
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        self.checkout = checkout
        self._stack = stack
        self._environment = os.environ | {
            "PWD": str(checkout),  # as a shell there would say: where deployments run
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(checkout / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        self.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_for("the server", lambda: answers(f"{self.api}/health"))
        self.muse("deploy", "--gpus", "1")
        for pool in ("muse-cpu", "muse-gpu"):
            self.start(f"worker-{pool}", "prefect", "worker", "start", "--pool", pool)

    def start(self, name: str, *command: str) -> subprocess.Popen:
        program = [str(BIN / command[0]), *command[1:]]
        return self._stack.enter_context(running(name, program, self._environment, self.checkout))

    def prefect(self, *arguments: str) -> str:
        return self._call("prefect", "--no-prompt", *arguments)

    def muse(self, *arguments: str) -> str:
        return self._call("muse", *arguments)

    def _call(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, deployment: str, **parameters: object) -> str:
        """Start a flow run; its id."""
        before = {run["id"] for run in self._runs()}
        self.prefect("deployment", "run", deployment, "--params", json.dumps(parameters))
        (run_id,) = {run["id"] for run in self._runs() if not run["auto_scheduled"]} - before
        return run_id

    def end(self, run_id: str) -> None:
        """Wait until a flow run has ended well."""
        ends = ("COMPLETED", "FAILED", "CRASHED")
        wait_for("the flow run's end", lambda: flow_run_state(self.api, run_id) in ends)
        logs = "".join(log.read_text()[-4000:] for log in self.checkout.glob("worker-*.log"))
        assert flow_run_state(self.api, run_id) == "COMPLETED", logs

    def artifacts(self) -> dict[str, object]:
        """The latest of each key."""
        found = httpx.post(f"{self.api}/artifacts/filter", json={}, timeout=10).json()
        return {artifact["key"]: artifact["data"] for artifact in sorted(found, key=lambda one: one["created"])}

    def _runs(self) -> list[dict]:
        return httpx.post(f"{self.api}/flow_runs/filter", json={}, timeout=10).json()


def test_deployment_completes_although_a_dask_worker_is_killed(checkout):
    for number in range(4):
        draw_slide(checkout / f"{number}.svs", 9600, 7200)
    rows = "".join(f"S{number},C{number},P,{checkout / f'{number}.svs'}\n" for number in range(4))
    (checkout / "slides.csv").write_text("slide_id,case_id,project,uri\n" + rows)
    dask_port = free_port()
    dask = f"tcp://127.0.0.1:{dask_port}"
    out = checkout / "out"
    with ExitStack() as stack:
        here = Installation(stack, checkout)
        quiet = ("--host", "127.0.0.1", "--no-dashboard")
        here.start("scheduler", "dask", "scheduler", *quiet, "--port", str(dask_port))
        doomed = here.start("doomed", "dask", "worker", dask, "--nthreads", "1", "--no-dashboard")
        here.start("steady", "dask", "worker", dask, "--nthreads", "1", "--no-dashboard")
        run_id = here.run(
            "build-tcga-nu/sample",
            manifest=str(checkout / "slides.csv"),
            out=str(out),
            dask_scheduler=dask,
            overrides=["chunk_rois=1"],
        )
        wait_for("the first parts", lambda: list(out.glob(".staging/*/*/part-*.parquet")) or list(out.glob("rois/*/*")))
        os.killpg(doomed.pid, signal.SIGKILL)
        here.end(run_id)
        artifacts = here.artifacts()
    statuses = {row["slide_id"]: row["status"] for row in pq.read_table(out / "slides.parquet").to_pylist()}
    assert statuses == {f"S{number}": "done" for number in range(4)}
    assert set(artifacts) == {f"build-tcga-nu-sample-{name}" for name in ("progress", "slides", "summary")}


def test_the_sample_s_nuclei_and_a_folder_that_fills(checkout):
    with ExitStack() as stack:
        here = Installation(stack, checkout)
        listed = here.prefect("deployment", "ls")
        assert "infer-slides/sample" in listed
        assert "finetune-ndc/lab" in listed
        here.end(here.run("infer-slides/sample"))
        artifacts = here.artifacts()
        inbox = checkout / "data" / "inbox"
        inbox.mkdir(parents=True)
        here.end(here.run("infer-slides/inbox", settled_minutes=0))
        shutil.copy(checkout / "data_manifests" / "sample" / "ihc-colon-small.svs", inbox / "new.svs")
        here.end(here.run("infer-slides/inbox", settled_minutes=0))
    out = checkout / "runs" / "sample-nuclei"
    (row,) = pq.read_table(out / "slides.parquet").to_pylist()
    assert (row["slide_id"], row["status"]) == ("ihc-colon-small", "done")
    assert row["n_nuclei"] > 100
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    assert set(artifacts) == {f"infer-slides-sample-{name}" for name in ("progress", "slides", "summary", "report")}
    assert (out / "report.html").as_uri() in str(artifacts["infer-slides-sample-report"])
    (new,) = pq.read_table(checkout / "runs" / "inbox" / "slides.parquet").to_pylist()
    assert (new["slide_id"], new["n_nuclei"]) == ("new", row["n_nuclei"])


def test_a_schedule_runs_a_deployment_by_itself(checkout):
    """The run looks at the inbox; it takes a file at a later one, ten minutes on, if that has not changed till then."""
    inbox = checkout / "data" / "inbox"
    inbox.mkdir(parents=True)
    shutil.copy(checkout / "data_manifests" / "sample" / "ihc-colon-small.svs", inbox / "new.svs")
    with ExitStack() as stack:
        here = Installation(stack, checkout)
        here.prefect("deployment", "schedule", "create", "infer-slides/inbox", "--cron", "* * * * *")
        table = checkout / "runs" / "inbox" / "slides.parquet"
        wait_for("a run that nobody started", table.exists)
        assert "Can't evaluate" not in (checkout / "server.log").read_text()
    (seen,) = json.loads((table.parent / "inbox.json").read_text())["seen"]
    assert seen.endswith("new.svs")
    assert pq.read_table(table).num_rows == 0


def test_a_run_whose_process_is_killed_is_started_again_by_itself(checkout):
    draw_slide(checkout / "S.svs", 9600, 7200)
    (checkout / "slides.csv").write_text(f"slide_id,case_id,project,uri\nS,C,P,{checkout / 'S.svs'}\n")
    out = checkout / "out"
    with ExitStack() as stack:
        here = Installation(stack, checkout)
        run_id = here.run(
            "build-tcga-nu/sample",
            manifest=str(checkout / "slides.csv"),
            out=str(out),
            workers=0,
            overrides=["chunk_rois=1"],
        )
        wait_for("the first parts", lambda: list(out.glob(".staging/*/*/part-*.parquet")))
        (process,) = [one for one in psutil.process_iter(["environ"]) if is_run(one, run_id)]
        process.kill()
        wait_for("the end", lambda: flow_run_state(here.api, run_id) == "COMPLETED")
        assert httpx.get(f"{here.api}/flow_runs/{run_id}", timeout=10).json()["run_count"] >= 2
    (row,) = pq.read_table(out / "slides.parquet").to_pylist()
    assert row["status"] == "done"


def is_run(process: psutil.Process, run_id: str) -> bool:
    """Whether a process is the engine of a flow run, which finds the run's id in its environment."""
    with suppress(psutil.Error):
        return process.environ().get("PREFECT__FLOW_RUN_ID") in {run_id, run_id.replace("-", "")} and (
            "prefect.flow_engine" in process.cmdline() or "prefect.engine" in process.cmdline()
        )
    return False
