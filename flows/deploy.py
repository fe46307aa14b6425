"""`muse deploy`: all that the flows need on a Prefect server, from `deploy/prefect.yaml`; again, it changes only that.

prefect.yaml ─▶ work pools, GPU limit, deployments, schedules ─▶ automations that take up what died
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.gpu import GPU_LIMIT
from muse_core.errors import ConfigError, MuseError
from muse_core.machine.device import gpu_count

FILE = Path("deploy/prefect.yaml")
HEARTBEAT_S = 30  # how often a run says that it is alive; Prefect's shortest
SILENT = timedelta(minutes=5)  # so long a silence is a death; more than a restart of the server takes
_TAG = "muse"
_MEMORY_LEASES = "prefect.server.concurrency.lease_storage.memory"
# Of each run's process: signs of life, and patience with a server that is down for some minutes.
_ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S), "PREFECT_CLIENT_MAX_RETRIES": "8"}


@dataclass(frozen=True)
class Done:
    """One thing on the server: what it is, its name, and whether it was made, updated or left as it was."""

    kind: str
    name: str
    what: str


def main(
    file: Annotated[Path, typer.Option(metavar="YAML", help="The deployments.")] = FILE,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where runs work, and paths count from.")] = Path(),
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of all machines; those of this one the first time.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Put parameters and schedules back to the file's, also where changed since.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The last line is a JSON object.")] = False,
) -> None:
    """Make work pools, GPU limit, deployments, schedules and automations on the Prefect server at PREFECT_API_URL.

    Run again, it updates what the file says and keeps parameters and schedules that were changed on the server.

    Example: muse deploy --gpus 4
    """
    try:
        deployments = read_deployments(file)
        with get_client(sync_client=True) as client:
            done = list(deploy(client, deployments, folder.absolute(), gpus=gpus, reset=reset))
            warnings = server_warnings(client)
    except MuseError as error:
        _give_up(str(error))
    except (httpx.HTTPError, RuntimeError) as error:  # Prefect's client tells a server that is not there as the latter
        _give_up(f"PREFECT_API_URL {PREFECT_API_URL.value()}: {error}; start a server there, then muse deploy again")
    _tell(done, warnings)
    if as_json:
        sys.stdout.write(json.dumps({"done": [asdict(one) for one in done], "warnings": warnings}) + "\n")


def read_deployments(file: Path) -> list[dict[str, Any]]:
    """The deployments of a `prefect.yaml`.

    Raises:
        ConfigError: there is no such file, or it is none.
    """
    if not PREFECT_API_URL.value():
        raise ConfigError("PREFECT_API_URL is not set; give the server's, such as http://127.0.0.1:4200/api")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [dict(one) for one in found["deployments"]]
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; run it in the project's folder, or give --file") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: no list of deployments: {error}") from None


def deploy(
    client: SyncPrefectClient, deployments: list[dict[str, Any]], folder: Path, *, gpus: int | None, reset: bool
) -> Iterable[Done]:
    """Make or update everything; yields each thing as it is there.

    Args:
        client: of the server.
        deployments: as `deploy/prefect.yaml` lists them.
        folder: where runs work.
        gpus: slots of the GPU limit; None to keep what there is, or for this machine's GPUs.
        reset: put parameters and schedules back to the file's.

    Raises:
        ConfigError: a deployment names a flow or parameters that do not exist.
    """
    flows = [(_flow_of(one), one) for one in deployments]  # a mistake shows before anything is changed
    for pool in sorted({one["work_pool"]["name"] for one in deployments}):
        yield _pool(client, pool)
    yield _gpu_limit(client, gpus)
    for flow, one in flows:
        yield _deployment(client, flow, one, folder, reset=reset)
    for automation in automations():
        yield _automation(client, automation)


def automations() -> list[AutomationCore]:
    """What takes up runs of our deployments whose process died: found out by silence, started again.

    `flows.ending.MOST_STARTS` bounds how often. A run that is alive all the same holds its folder, and its second start
    ends as Skipped.
    """
    ours = ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{_TAG}"], "prefect.resource.role": "tag"})
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed", "Skipped")}
    return [
        AutomationCore(
            name="muse: a run that is silent has died",
            description=f"No heartbeat for {SILENT}: the process or its machine is gone.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *ends},
                match=runs,
                match_related=ours,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENT,
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"silent for {SILENT}")],
        ),
        AutomationCore(
            name="muse: a run that died is started again",
            description="It goes on where it stopped; what kills it every time ends after five starts.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"},
                match=runs,
                match_related=ours,
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="taken up again")],
        ),
    ]


def server_warnings(client: SyncPrefectClient) -> list[str]:
    """What is amiss with the server's own settings."""
    answer = client.request("GET", "/admin/settings")
    server = answer.json().get("server", {}) if answer.is_success else {}
    if server.get("concurrency", {}).get("lease_storage") != _MEMORY_LEASES:
        return []
    return [
        "the server keeps GPU slots in memory and forgets them when it is started again; start it with the settings "
        "of deploy/server.env (PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE)"
    ]


def _flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    name, entrypoint = deployment.get("name"), str(deployment.get("entrypoint"))
    path, _, function = entrypoint.partition(":")
    try:
        flow = getattr(import_module(path.removesuffix(".py").replace("/", ".")), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"deployment {name}: entrypoint {entrypoint}: {error}; write flows/F.py:FUNCTION") from None
    unknown = set(deployment.get("parameters") or {}) - set(flow.parameters.properties)
    if unknown:
        known = ", ".join(flow.parameters.properties)
        raise ConfigError(f"deployment {name}: {flow.name} takes no {', '.join(sorted(unknown))}; it takes {known}")
    return flow  # type: ignore[no-any-return]


def _pool(client: SyncPrefectClient, name: str) -> Done:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return Done("work pool", name, "made")
    return Done("work pool", name, "kept")


def _gpu_limit(client: SyncPrefectClient, gpus: int | None) -> Done:
    try:
        there = client.read_global_concurrency_limit_by_name(GPU_LIMIT)
    except ObjectNotFound:
        count = max(1, gpu_count() if gpus is None else gpus)
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=count))
        return Done("limit", f"{GPU_LIMIT} ({count})", "made")
    if gpus is None or there.limit == max(1, gpus):
        return Done("limit", f"{GPU_LIMIT} ({there.limit})", "kept")
    client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, max(1, gpus))
    return Done("limit", f"{GPU_LIMIT} ({max(1, gpus)})", "updated")


def _deployment(
    client: SyncPrefectClient, flow: Flow[..., Any], one: dict[str, Any], folder: Path, *, reset: bool
) -> Done:
    full_name = f"{flow.name}/{one['name']}"
    try:
        there = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        there = None
    keep = there is not None and not reset
    parameters = there.parameters if there is not None and keep else one.get("parameters") or {}
    client.create_deployment(
        client.create_flow_from_name(flow.name),
        one["name"],
        description=one.get("description"),
        tags=one.get("tags") or [_TAG],
        parameters=parameters,
        schedules=_schedules_there(there) if there is not None and keep else _schedules_of(one),
        work_pool_name=one["work_pool"]["name"],
        entrypoint=one["entrypoint"],
        path=str(folder),
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
        job_variables={"env": _ENVIRONMENT},
        parameter_openapi_schema=flow.parameters.model_dump(),
        enforce_parameter_schema=True,
    )
    changed = there is not None and there.parameters != (one.get("parameters") or {})
    what = "made" if there is None else "reset" if reset else "updated, its parameters kept" if changed else "updated"
    return Done("deployment", full_name, what)


def _schedules_of(one: dict[str, Any]) -> list[DeploymentScheduleCreate]:
    return [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone", "UTC")),
            active=bool(schedule.get("active", False)),
        )
        for schedule in one.get("schedules") or ()
    ]


def _schedules_there(there: DeploymentResponse) -> list[DeploymentScheduleCreate]:
    """The schedules of a deployment as they are now: sent along, for a deployment that is made again loses them."""
    names = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")
    return [DeploymentScheduleCreate(**{name: getattr(one, name) for name in names}) for one in there.schedules]


def _automation(client: SyncPrefectClient, automation: AutomationCore) -> Done:
    found = client.read_automations_by_name(automation.name)
    if not found:
        client.create_automation(automation)
        return Done("automation", automation.name, "made")
    automation.enabled = found[0].enabled
    client.update_automation(found[0].id, automation)
    return Done("automation", automation.name, "updated")


def _tell(done: list[Done], warnings: list[str]) -> None:
    width = max(len(one.name) for one in done)
    for one in done:
        sys.stdout.write(f"{one.kind:<11} {one.name:<{width}}  {one.what}\n")
    pools = [one.name for one in done if one.kind == "work pool"]
    first = next(one.name for one in done if one.kind == "deployment")
    sys.stdout.write(f"\nNext: prefect worker start --pool {' | '.join(pools)}\n      prefect deployment run {first}\n")
    for warning in warnings:
        sys.stderr.write(f"muse: {warning}\n")


def _give_up(message: str) -> NoReturn:
    sys.stderr.write(f"muse: {message}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="muse deploy")
