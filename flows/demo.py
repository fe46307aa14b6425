"""The demo through the real flow: `python -m flows.demo --out demo` is what `make demo` runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from prefect.client.schemas.objects import State

from flows.build_tcga_nu import build_tcga_nu
from muse_core.demo import clear_demo, draw_demo
from muse_core.run_paths import RunPaths


def main(out: Annotated[Path, typer.Option(metavar="DIR")] = Path("demo")) -> None:
    """Draw a small slide of real tissue and build its ROI dataset as a Prefect flow run."""
    clear_demo(out)
    paths = RunPaths(out / "dataset")
    outcome = build_tcga_nu(draw_demo(out / "input"), paths.out, return_state=True)
    if paths.summary.exists():
        sys.stdout.write("\n" + paths.summary.read_text(encoding="utf-8"))
        sys.stdout.write(f"\nOpen {paths.contact_sheet('ihc-colon')} to see the tissue, the ROIs and their nuclei.\n")
    raise typer.Exit(0 if isinstance(outcome, State) and outcome.is_completed() else 1)


if __name__ == "__main__":
    typer.run(main)
