"""`muse train-detector`; what needs torch is imported when it runs: that takes seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse_core.cli.datasets import DatasetsToml, Folders, Layouts, LeaveOut, labelled_data
from muse_core.cli.options import AsJson, ConfigFile, Out, Overrides, Verbose
from muse_core.cli.progress import open_display
from muse_core.cli.terminal import open_terminal, print_json, stop_requests, tell_stopped
from muse_core.config import load_settings

if TYPE_CHECKING:
    from muse_core.training.progress import Progress


def train_detector(
    out: Out,
    dataset: Layouts = None,
    data: Folders = None,
    datasets: DatasetsToml = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="F.safetensors", help="Weights of an earlier run to start from.")
    ] = None,
    leave_out: LeaveOut = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last state in --out.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train the nucleus detector: training parts only, validation parts for selection and calibration.

    SIGTERM or Ctrl-C writes the state and ends with status 130.

    Example: `muse train-detector --dataset brca-m2c --data data/brca_m2c --out runs/detector`

    Example: `muse train-detector --datasets data_manifests/many_organs.toml --data data --out runs/detector`
    """
    from muse_core.detector import train as training
    from muse_core.detector.settings import TrainDetectorSettings

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(TrainDetectorSettings, config, overrides or ())
    learned_from = labelled_data(dataset, data, datasets, leave_out=leave_out, side_px=settings.side_px)
    with stop_requests(terminal) as should_stop, open_display(terminal) as display:

        def tell(state: "Progress") -> None:
            note = f"loss {state.loss:.3f}" + (f", F1 {state.score:.3f}" if state.score is not None else "")
            display.show("steps", state.step, settings.steps, note)

        result = training.train_detector(
            learned_from,
            out,
            settings=settings,
            init=init,
            resume=resume,
            should_stop=should_stop,
            on_progress=tell,
        )
    if result.step < result.steps:
        tell_stopped(terminal, {"step": result.step, "steps": result.steps, "seconds": result.seconds})
    terminal.results.print(
        f"{result.weights}: {result.n_parameters:,} parameters, F1 {result.f1:.4f} on validation (greedy, 3 um, "
        "mean over datasets), "
        f"{result.seconds:.0f} s of training",
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        print_json(
            {
                "weights": str(result.weights),
                "f1": result.f1,
                "n_parameters": result.n_parameters,
                "seconds": result.seconds,
            }
        )
