"""`muse deploy`: hands over to `flows.deploy`, which alone knows Prefect."""

import subprocess
import sys

import typer


def deploy(context: typer.Context) -> None:
    """Make work pools, limits, deployments, schedules and automations on the Prefect server at PREFECT_API_URL."""
    done = subprocess.run([sys.executable, "-m", "flows.deploy", *context.args], check=False)
    raise typer.Exit(done.returncode)
