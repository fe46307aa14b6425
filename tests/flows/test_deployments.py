"""deploy/prefect.yaml names flows that exist, with parameters that they take."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
FLOWS = {"build-tcga-nu", "pretrain-muse", "finetune-ndc", "infer-slides", "evaluate-muse"}
ON_GPUS = {"pretrain-muse", "infer-slides", "evaluate-muse"}


def flow_of(deployment: dict) -> Flow:
    path, _, function = deployment["entrypoint"].partition(":")
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), function)
    assert isinstance(found, Flow)
    return found


def full_name(deployment: dict) -> str:
    return f"{flow_of(deployment).name}/{deployment['name']}"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=full_name)
def test_the_flow_takes_its_parameters(deployment):
    flow = flow_of(deployment)
    assert flow.name == Path(deployment["entrypoint"].partition(":")[0]).stem.replace("_", "-")
    parameters = deployment["parameters"]
    assert set(parameters) <= set(flow.parameters.properties)
    assert set(flow.parameters.required) <= set(parameters)
    flow.validate_parameters(parameters)
    for schedule in deployment.get("schedules", ()):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert not schedule["active"], "nobody's data is there when it is deployed"
    assert "concurrency_limit" not in deployment, "a lock of the folder that dies with its run does better"


def test_all_flows_are_deployed_under_names_of_their_own():
    names = [full_name(deployment) for deployment in DEPLOYMENTS]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == FLOWS
    assert {"build-tcga-nu/sample", "infer-slides/sample"} <= set(names)


def test_only_flows_that_use_gpus_wait_for_them():
    pools = {full_name(deployment): deployment["work_pool"]["name"] for deployment in DEPLOYMENTS}
    assert set(pools.values()) == {"muse-cpu", "muse-gpu"}
    assert {name.partition("/")[0] for name, pool in pools.items() if pool == "muse-gpu"} <= ON_GPUS


def test_the_guide_names_all_of_them():
    guide = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"deployment run ([\w-]+/[\w-]+)", guide)) <= set(map(full_name, DEPLOYMENTS))
    for name in map(full_name, DEPLOYMENTS):
        assert f"`{name}`" in guide or f"deployment run {name}" in guide, name
