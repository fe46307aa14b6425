"""The demo through the real flows: `python -m flows.demo --out demo` is what `make demo` runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from prefect.client.schemas.objects import State

from flows.build_tcga_nu import build_tcga_nu
from muse_core.cli.demo import DemoPaths, clear_demo, draw_demo, guide_text
from muse_core.cohort.paths import RunPaths


def main(out: Annotated[Path, typer.Option(metavar="DIR")] = Path("demo")) -> None:
    """Draw a small slide of real tissue; build its ROI dataset, classify its nuclei, report: as Prefect flow runs."""
    paths = DemoPaths(out)
    clear_demo(out)
    manifest = draw_demo(paths.input)
    built = build_tcga_nu(manifest, paths.dataset, return_state=True)
    from flows.infer_slides import infer_slides  # not above: the build's worker processes import this file, not torch

    outcomes = (built, infer_slides(manifest, paths.nuclei, report=paths.report, return_state=True))
    for folder in (paths.dataset, paths.nuclei):
        summary = RunPaths(folder).summary
        if summary.exists():
            sys.stdout.write("\n" + summary.read_text(encoding="utf-8"))
    done = all(isinstance(outcome, State) and outcome.is_completed() for outcome in outcomes)
    if done:
        sys.stdout.write("\n" + guide_text(paths))
    raise typer.Exit(0 if done else 1)


if __name__ == "__main__":
    typer.run(main)
