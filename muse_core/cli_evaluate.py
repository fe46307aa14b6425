"""`muse evaluate`: the published scores; what needs torch is imported when a command runs: that takes seconds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from muse_core.cli_detector import Data, Dataset
from muse_core.errors import ConfigError
from muse_core.nuclei import load_detector
from muse_core.terminal import AsJson, open_terminal, print_json

evaluate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score models with published protocols.")


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
