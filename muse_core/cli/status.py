"""`muse status`: a run's folder at a glance."""

import time
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from muse_core.cli.options import AsJson
from muse_core.cli.terminal import open_terminal, print_json

EVERY_S = 2.0

Folder = Annotated[
    str, typer.Option("--out", metavar="DIR", help="Output folder of muse infer or build-tcga-nu, or its URL.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until the run ends or Ctrl-C.")]


Metrics = Annotated[bool, typer.Option("--openmetrics", help="Say it in OpenMetrics, for Prometheus.")]


def status(out: Folder, watch: Watch = False, as_json: AsJson = False, openmetrics: Metrics = False) -> None:
    """Say what a run has done, what failed and why, how fast it is, how long it takes still and who works there.

    Example: muse status --out runs/tcga --watch
    """
    from muse_core.cohort.openmetrics import openmetrics_text
    from muse_core.cohort.status import read_status, status_text  # not above: muse --help is quick

    if openmetrics:
        if watch or as_json:
            raise typer.BadParameter("--openmetrics goes without --watch and --json")
        typer.echo(openmetrics_text(read_status(out), out), nl=False)
        return

    terminal = open_terminal(as_json)
    found = read_status(out)
    if watch:
        with Live(Text(status_text(found)), console=terminal.results, auto_refresh=False) as live:
            while found.state == "running":
                time.sleep(EVERY_S)
                found = read_status(out)
                live.update(Text(status_text(found)), refresh=True)
    else:
        terminal.results.print(status_text(found), end="", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(found.as_json())
