"""A deployment with a schedule makes runs by itself: Prefect's own scheduler on a real database, as locked."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule


@flow
def nothing() -> None:
    """Does nothing."""


@pytest.fixture
def deployment(prefect_server):
    """The id of a deployment that runs every minute."""
    every_minute = DeploymentScheduleCreate(schedule=CronSchedule(cron="* * * * *", timezone="UTC"), active=True)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(nothing)
        created = client.create_deployment(flow_id, "scheduled", schedules=[every_minute])
        yield created
        client.delete_deployment(created)


def scheduled_runs(deployment_id) -> list[datetime]:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    mine = [run for run in runs if run.deployment_id == deployment_id and run.auto_scheduled]
    return sorted(run.expected_start_time for run in mine if run.expected_start_time is not None)


@pytest.mark.filterwarnings("default")  # it is to fail by what does not work, not by what is old-fashioned
def test_a_schedule_makes_runs(deployment):
    from prefect.server.services.scheduler import schedule_deployments  # not above: the harness sets its database

    asyncio.run(schedule_deployments())
    times = scheduled_runs(deployment)
    assert len(times) >= 3
    assert {(later - earlier).total_seconds() for earlier, later in pairwise(times)} == {60.0}
    assert times[0] - datetime.now(UTC) <= timedelta(minutes=1)
