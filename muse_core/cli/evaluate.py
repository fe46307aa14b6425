"""`muse evaluate`: the published scores; what needs torch is imported when a command runs: that takes seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import (
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from muse_core.cli.options import AsJson, ConfigFile, Data, Dataset, Overrides, Verbose
from muse_core.cli.scores_table import last_line, print_scores
from muse_core.cli.terminal import Terminal, open_terminal, print_json
from muse_core.config import load_settings
from muse_core.detector.detect import load_detector
from muse_core.errors import ConfigError
from muse_core.machine.device import resolve_device
from muse_core.ndc.registry import resolve_checkpoint

if TYPE_CHECKING:
    from muse_core.evaluate.representation import EvaluationRequest, MapEncoder, NucleusEncoder, ScoredFeatures

evaluate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score models with published protocols.")

Split = Annotated[str, typer.Option(metavar="S", help="val or test; train is what answers are learned from.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="CKPT", help="Backbone of `muse pretrain`, or a released .pth; default muse-nano, which ships."
    ),
]
EncoderName = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="E",
        help="Instead: nano, vit-s16, vit-b16, resnet50, each also with -imagenet; timm:NAME; package.module:function.",
    ),
]
Mpp = Annotated[float, typer.Option(metavar="F", help="um/px of the tiles; published: 0.25 and 0.5.")]
Fov = Annotated[int, typer.Option(metavar="PX", help="Side of the tiles, px; published: 224 and 512.")]
CoordinatesChoice = Annotated[
    Literal["exact", "official"],
    typer.Option(help="official: cut, positions resampled and maps read as the published scripts do."),
]
Device = Annotated[str, typer.Option(help="Where the encoder runs: auto, cpu or cuda.")]
Picture = Annotated[Path | None, typer.Option(metavar="F.png", help="Draw nearest neighbours of a few nuclei here.")]


@evaluate_app.command("knn")
def evaluate_knn(
    dataset: Dataset,
    data: Data,
    split: Split = "val",
    checkpoint: Checkpoint = None,
    encoder: EncoderName = None,
    mpp: Mpp = 0.5,
    fov: Fov = 224,
    k: Annotated[list[int] | None, typer.Option("--k", help="Neighbours; repeat it. Published: 10 to 500.")] = None,
    coordinates: CoordinatesChoice = "exact",
    picture: Picture = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy of the k nearest labelled nuclei in feature space, k as best on the split and as chosen on validation.

    Example: `muse evaluate knn --dataset brca-m2c --data data/brca_m2c --split val --encoder nano-imagenet`
    """
    from muse_core.evaluate.representation import KS, EvaluationRequest, draw_neighbours, evaluate_knn

    terminal = open_terminal(as_json, verbose)
    name = _name(checkpoint, encoder)
    request = EvaluationRequest(dataset, data, split, mpp, fov, coordinates, name)
    scored = _features(terminal, request, checkpoint, encoder, device)
    answer = evaluate_knn(scored, ks=tuple(k or KS))
    chosen = f"k={answer['k_from_val']} of validation: {answer['accuracy_k_from_val']:.2f}"
    _tell(terminal, answer, f"best of {len(answer['by_k'])} k, k={answer['k']}; {chosen}")
    if picture is not None:
        draw_neighbours(scored, picture)


@evaluate_app.command("linear")
def evaluate_linear(
    dataset: Dataset,
    data: Data,
    split: Split = "val",
    checkpoint: Checkpoint = None,
    encoder: EncoderName = None,
    mpp: Mpp = 0.5,
    fov: Fov = 224,
    coordinates: CoordinatesChoice = "exact",
    config: ConfigFile = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy of a linear layer on frozen features, of the epoch best on validation.

    Example: `muse evaluate linear --dataset brca-m2c --data data/brca_m2c --encoder timm:tf_efficientnet_lite0`
    """
    from muse_core.evaluate.representation import EvaluationRequest, LinearSettings, evaluate_linear

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(LinearSettings, config, overrides or ())
    name = _name(checkpoint, encoder)
    request = EvaluationRequest(dataset, data, split, mpp, fov, coordinates, name)
    answer = evaluate_linear(_features(terminal, request, checkpoint, encoder, device), settings=settings)
    _tell(terminal, answer, f"epoch {answer['epoch']}, validation {answer['validation_accuracy']:.2f}")


@evaluate_app.command("finetune")
def evaluate_finetune(
    dataset: Dataset,
    data: Data,
    split: Split = "val",
    checkpoint: Checkpoint = None,
    encoder: EncoderName = None,
    mpp: Mpp = 0.5,
    fov: Fov = 224,
    coordinates: CoordinatesChoice = "exact",
    config: ConfigFile = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy of the whole network fine-tuned on the train split: ten epochs, which on a CPU take a while.

    Example: `muse evaluate finetune --dataset brca-m2c --data data/brca_m2c --checkpoint muse-backbone.safetensors`
    """
    from muse_core.evaluate.representation import EvaluationRequest, FinetuneSettings, evaluate_finetune

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(FinetuneSettings, config, overrides or ())
    request = EvaluationRequest(dataset, data, split, mpp, fov, coordinates, _name(checkpoint, encoder))
    network = _encoder(request, checkpoint, encoder, device)
    with _progress(terminal) as tell:
        answer = evaluate_finetune(
            network, request, settings=settings, on_tiles=tell.tiles, on_epoch=partial(tell.epoch, settings.epochs)
        )
    _tell(terminal, answer, f"epoch {answer['epoch']}; linear layer alone: {answer['linear_accuracy']:.2f}")


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
    from muse_core.detector.learned import LearnedDetector
    from muse_core.evaluate.detect import draw_worst, evaluate_detector, score_patches
    from muse_core.labels import read_labelled_patches
    from muse_core.labels.matching import RULES

    terminal = open_terminal(as_json)
    if protocol not in ("all", *RULES):
        raise ConfigError(f"--protocol {protocol}: needs all or one of {', '.join(RULES)}")
    if detector == "none" and checkpoint is None:
        raise ConfigError("--detector none: finds nothing that could be scored; give learned, classical or a callable")
    found = LearnedDetector(checkpoint) if checkpoint is not None else load_detector(detector)
    name = str(checkpoint or detector)
    answer = evaluate_detector(found, dataset, data, split=split, radius_um=radius_um, checkpoint=name)
    if protocol != "all":
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


def _name(checkpoint: Path | None, encoder: str | None) -> str:
    """What the answer calls the model."""
    if encoder is not None:
        return f"{encoder} with {checkpoint}" if checkpoint else encoder
    return str(checkpoint or "muse-nano")


def _encoder(
    request: "EvaluationRequest", checkpoint: Path | None, encoder: str | None, device: str
) -> "NucleusEncoder | MapEncoder":
    from muse_core.evaluate.representation import load_encoder

    mode = request.coordinates if request.coordinates == "official" else None  # else what the model wants
    return load_encoder(checkpoint, encoder, image_px=request.fov_px, device=resolve_device(device), mode=mode)


def _features(
    terminal: Terminal, request: "EvaluationRequest", checkpoint: Path | None, encoder: str | None, device: str
) -> "ScoredFeatures":
    from muse_core.evaluate.representation import read_features

    found = _encoder(request, checkpoint, encoder, device)
    with _progress(terminal) as tell:
        return read_features(found, request, on_tiles=tell.tiles)


class _Counts:
    """What a running evaluation reports, shown as a line a split."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}

    def tiles(self, split: str, tiles: int, nuclei: int) -> None:
        """So many more tiles of a split are done, with their nuclei."""
        before = self._counts.get(split, (0, 0))
        self._counts[split] = (before[0] + tiles, before[1] + nuclei)
        self._show(f"features of {split}", "{:,} tiles, {:,} nuclei".format(*self._counts[split]))

    def epoch(self, epochs: int, epoch: int, accuracy: float) -> None:
        """An epoch is done."""
        self._show("fine-tuning", f"epoch {epoch + 1} of {epochs}, validation {100 * accuracy:.2f} %")

    def _show(self, task: str, done: str) -> None:
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, total=None, done="")
        self._progress.update(self._tasks[task], done=done)


@contextmanager
def _progress(terminal: Terminal) -> Iterator[_Counts]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        yield _Counts(progress)


def _tell(terminal: Terminal, answer: dict[str, Any], how: str) -> None:
    """The score, and the paper's column below it."""
    from muse_core.evaluate.representation import published_scores

    where = f"{answer['dataset']} {answer['split']}, {answer['mpp']:g} um/px"
    table = Table("model", "accuracy %", "", box=None, title=f"{answer['task']} on {where}")
    table.add_row(answer["checkpoint"], f"{answer['accuracy']:.2f}", how, style="bold")
    table.add_row("always the commonest class", f"{answer['majority_accuracy']:.2f}", "")
    for row in published_scores(answer["task"], answer["dataset"], answer["mpp"]):
        table.add_row(row.method, f"{row.accuracy:.2f}", "published, on test", style="dim")
    terminal.results.print(table)
    classes = ", ".join(
        f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in answer["per_class"].items()
    )
    terminal.results.print(f"by class: {classes} ({answer['n_nuclei']:,} nuclei)", markup=False, soft_wrap=True)
    for note in answer["notes"]:
        terminal.results.print(f"note: {note}", markup=False, soft_wrap=True)
    if terminal.as_json:
        print_json(answer)


@evaluate_app.command("ndc")
def evaluate_ndc(
    dataset: Dataset,
    data: Data,
    split: Annotated[str, typer.Option(metavar="S", help="train, val or test.")] = "val",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="F.safetensors", help="Of muse finetune, or a registry folder; default the weights that ship."
        ),
    ] = None,
    radius_um: Annotated[float, typer.Option(help="Farthest a nucleus may lie from its label, um.", min=0.1)] = 3.0,
    protocol: Annotated[str, typer.Option(metavar="P|all", help="One matching rule, or all of them.")] = "all",
    min_score: Annotated[float, typer.Option(help="Nuclei below are left out.", min=0.0, max=1.0)] = 0.5,
    picture: Annotated[Path | None, typer.Option(metavar="F.png", help="Draw the worst patches here.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a model that finds and names nuclei, by every published matching rule side by side.

    Example: `muse evaluate ndc --dataset brca-m2c --data data/brca_m2c --split val`
    """
    from muse_core.evaluate.ndc import evaluate_ndc as evaluate
    from muse_core.labels.scores import NDC_RULES
    from muse_core.models.shipped import MUSE_NANO_NDC
    from muse_core.ndc.model import NdcModel

    if protocol not in ("all", *NDC_RULES):
        raise ConfigError(f"--protocol {protocol}: needs all or one of {', '.join(NDC_RULES)}")
    terminal = open_terminal(as_json)
    checkpoint = resolve_checkpoint(checkpoint)
    name = str(checkpoint or MUSE_NANO_NDC.name)
    answer = evaluate(
        NdcModel(checkpoint, device=resolve_device(device)),
        dataset,
        data,
        split=split,
        radius_um=radius_um,
        min_score=min_score,
        checkpoint=name,
        picture=picture,
    )
    if protocol != "all":
        answer["protocols"] = {protocol: answer["protocols"][protocol]}
        answer |= {"protocol": protocol, "mean_class_f1": answer["protocols"][protocol]["mean_class_f1"]}
    print_scores(terminal, answer, f"{name} on {dataset} {split}, {radius_um:g} um")
    for note in answer["notes"]:
        terminal.results.print(f"note: {note}", markup=False, soft_wrap=True)
    last_line(terminal, answer)
