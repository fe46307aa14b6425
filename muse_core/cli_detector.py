"""`muse train-detector` and `muse evaluate detect`; what needs torch is imported when one runs: that takes seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from muse_core.config import load_settings
from muse_core.errors import ConfigError
from muse_core.nuclei import load_detector
from muse_core.terminal import AsJson, ConfigFile, Out, Overrides, Verbose, open_terminal, print_json

if TYPE_CHECKING:
    from muse_core import train_detector as training

evaluate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score models with published protocols.")

Dataset = Annotated[str, typer.Option("--dataset", metavar="NAME", help="Labelled patches: brca-m2c.")]
Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Its folder, in the layout its authors publish.")]


def train_detector(
    dataset: Dataset,
    data: Data,
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last state in --out.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train the nucleus detector: training split only, validation for selection and calibration.

    Example: `muse train-detector --dataset brca-m2c --data data/brca_m2c --out runs/detector`
    """
    from muse_core import train_detector as training

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(training.TrainDetectorSettings, config, overrides or ())
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    columns += (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        task = progress.add_task("steps", total=settings.steps, note="")

        def tell(state: "training.Progress") -> None:
            note = f"loss {state.loss:.3f}" + (f", F1 {state.f1:.3f}" if state.f1 is not None else "")
            progress.update(task, completed=state.step, note=note)

        result = training.train_detector(dataset, data, out, settings=settings, resume=resume, on_progress=tell)
    terminal.results.print(
        f"{result.weights}: {result.n_parameters:,} parameters, F1 {result.f1:.4f} on validation (greedy, 3 um), "
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


@evaluate_app.command("detect")
def evaluate_detect(
    dataset: Dataset,
    data: Data,
    split: Annotated[str, typer.Option(metavar="S", help="train, val or test.")] = "val",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="F.safetensors", help="Weights of train-detector; default those that ship.")
    ] = None,
    detector: Annotated[str, typer.Option(help="learned, classical, or the dotted name of a callable.")] = "learned",
    radius_um: Annotated[float, typer.Option(help="Farthest a point may lie from its label, um.", min=0.1)] = 3.0,
    protocol: Annotated[str, typer.Option(metavar="P|all", help="One matching rule, or all of them.")] = "all",
    picture: Annotated[Path | None, typer.Option(metavar="F.png", help="Draw the worst patches here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a nucleus detector on labelled patches, by every published matching rule side by side.

    Example: `muse evaluate detect --dataset brca-m2c --data data/brca_m2c --split val`
    """
    from muse_core.evaluate_detect import draw_worst, evaluate_detector, score_patches
    from muse_core.labelled_patches import read_labelled_patches
    from muse_core.learned_detector import LearnedDetector

    terminal = open_terminal(as_json)
    found = LearnedDetector(checkpoint) if checkpoint is not None else load_detector(detector)
    name = str(checkpoint or detector)
    answer = evaluate_detector(found, dataset, data, split=split, radius_um=radius_um, checkpoint=name)
    if protocol != "all":
        if protocol not in answer["protocols"]:
            raise ConfigError(f"--protocol {protocol}: needs all or one of {', '.join(answer['protocols'])}")
        answer |= {"protocol": protocol, **answer["protocols"][protocol]}
        answer["protocols"] = {protocol: answer["protocols"][protocol]}
    table = Table("rule", "F1", "precision", "recall", box=None, title=f"{name} on {dataset} {split}, {radius_um:g} um")
    for rule, scores in answer["protocols"].items():
        table.add_row(rule, *(f"{scores[key]:.4f}" for key in ("f1", "precision", "recall")))
    terminal.results.print(table)
    if picture is not None:
        draw_worst(score_patches(found, read_labelled_patches(dataset, data, split), radius_um=radius_um), picture)
    if as_json:
        print_json(answer)
