"""`muse deploy` on a Prefect server of its own: everything is made, and again changes only what the file says."""

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate

from flows.deploy import automations, deploy, read_deployments, server_warnings
from flows.gpu import GPU_LIMIT
from muse_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "prefect.yaml"

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


def test_everything_is_made_and_again_kept(tmp_path):
    deployments = read_deployments(FILE)
    with get_client(sync_client=True) as client:

        def run(**options) -> dict[str, str]:
            return {one.name: one.what for one in deploy(client, deployments, tmp_path, gpus=2, **options)}

        first = run(reset=False)
        assert set(first.values()) == {"made"}
        assert len(first) == 2 + 1 + len(deployments) + 2
        inbox = client.read_deployment_by_name("infer-slides/inbox")
        assert inbox.path == str(tmp_path)
        assert inbox.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert inbox.parameter_openapi_schema["properties"]["slides"]["description"].startswith("a manifest")
        assert [one.active for one in inbox.schedules] == [False]
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 2

        client.update_deployment(inbox.id, DeploymentUpdate(parameters={**inbox.parameters, "slides": "elsewhere"}))
        client.update_deployment_schedule(inbox.id, inbox.schedules[0].id, active=True)
        again = run(reset=False)
        assert "made" not in again.values()
        assert again["infer-slides/inbox"] == "updated, its parameters kept"
        kept = client.read_deployment_by_name("infer-slides/inbox")
        assert (kept.id, kept.parameters["slides"]) == (inbox.id, "elsewhere")
        assert [one.active for one in kept.schedules] == [True]

        assert run(reset=True)["infer-slides/inbox"] == "reset"
        back = client.read_deployment_by_name("infer-slides/inbox")
        assert back.parameters["slides"] == "data/inbox"
        assert [one.active for one in back.schedules] == [False]
        for automation in automations():
            assert len(client.read_automations_by_name(automation.name)) == 1
        assert "deploy/server.env" in server_warnings(client)[0], "the server of these tests keeps leases in memory"
        client.delete_global_concurrency_limit_by_name(GPU_LIMIT)


def test_mistakes_are_told_before_anything_is_changed(tmp_path):
    wrong = {"name": "x", "entrypoint": "flows/infer_slides.py:infer_slides", "work_pool": {"name": "never"}}
    made = deploy(None, [wrong | {"parameters": {"nonsense": 1}}], tmp_path, gpus=None, reset=False)  # asks no server
    with pytest.raises(ConfigError, match="takes no nonsense; it takes slides"):
        next(iter(made))
    with pytest.raises(ConfigError, match=r"none.yaml: No such file or directory; run it in the project's folder"):
        read_deployments(tmp_path / "none.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(("url", "words"), [("", "PREFECT_API_URL is not set"), ("http://127.0.0.1:9/api", "start a")])
def test_without_a_server_it_is_one_line(url, words):
    command = [sys.executable, "-m", "muse_core.cli", "deploy", "--file", str(FILE)]
    done = subprocess.run(
        command, env={"PATH": "", "PREFECT_API_URL": url, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_server_s_settings_are_prefect_s():
    wanted = dict(
        line.split("=", 1) for line in (ROOT / "deploy/server.env").read_text().splitlines() if line[:7] == "PREFECT"
    )
    code = (
        "from prefect.settings import get_current_settings as s; v = s().server;"
        "print(v.concurrency.lease_storage, v.events.retention_period.days, v.services.db_vacuum.retention_period.days,"
        "sorted(v.services.db_vacuum.enabled_vacuum_types), v.api.host)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=wanted | {"PATH": ""}, capture_output=True, text=True)
    assert done.stdout.split() == [
        "prefect.server.concurrency.lease_storage.filesystem",
        "3",
        "90",
        "['events',",
        "'flow_runs',",
        "'orphans']",
        "127.0.0.1",
    ], done.stderr
