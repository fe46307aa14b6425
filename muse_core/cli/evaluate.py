"""`muse evaluate`: the published scores; what needs torch is imported when a command runs: that takes seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from muse_core.cli.options import AsJson, ConfigFile, Data, Dataset, Overrides, Verbose
from muse_core.cli.progress import EvaluationDisplay, open_display
from muse_core.cli.scores_table import last_line, print_scores
from muse_core.cli.terminal import Terminal, open_terminal, print_json
from muse_core.config import Settings, load_settings
from muse_core.machine.device import resolve_device

if TYPE_CHECKING:
    from muse_core.evaluate.by_name import ScoreName

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
Folds = Annotated[
    int,
    typer.Option(metavar="N", help="By case over all labels, lab's folders too, instead of a split.", min=0),
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
    folds: Folds = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy of the k nearest labelled nuclei in feature space, k as best on the split and as chosen on validation.

    Example: `muse evaluate knn --dataset lab --data data/consep_train --folds 5`

    Example: `muse evaluate knn --dataset brca-m2c --data data/brca_m2c --split val --encoder nano-imagenet`
    """
    from muse_core.evaluate.representation import KS

    terminal = open_terminal(as_json, verbose)
    answer = _evaluated(
        terminal,
        "knn",
        dataset=dataset,
        data=data,
        split=split,
        checkpoint=checkpoint,
        encoder=encoder,
        mpp=mpp,
        fov_px=fov,
        ks=tuple(k or KS),
        coordinates=coordinates,
        picture=picture,
        folds=folds,
        device=resolve_device(device),
    )
    best = f"best of {len(answer['by_k'])} k, k={answer['k']}"
    if folds:
        _tell(terminal, answer, f"{best}; deviation over folds {answer['fold_sd']:.2f}")
        return
    chosen = f"k={answer['k_from_val']} of validation: {answer['accuracy_k_from_val']:.2f}"
    _tell(terminal, answer, f"{best}; {chosen}")


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
    folds: Folds = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Accuracy of a linear layer on frozen features, of the epoch best on validation.

    Example: `muse evaluate linear --dataset brca-m2c --data data/brca_m2c --encoder timm:tf_efficientnet_lite0`
    """
    from muse_core.evaluate.representation import LinearSettings

    terminal = open_terminal(as_json, verbose)
    answer = _evaluated(
        terminal,
        "linear",
        load_settings(LinearSettings, config, overrides or ()),
        dataset=dataset,
        data=data,
        split=split,
        checkpoint=checkpoint,
        encoder=encoder,
        mpp=mpp,
        fov_px=fov,
        coordinates=coordinates,
        folds=folds,
        device=resolve_device(device),
    )
    if folds:
        _tell(terminal, answer, f"deviation over folds {answer['fold_sd']:.2f}")
        return
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
    from muse_core.evaluate.representation import EncoderFinetuneSettings

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(EncoderFinetuneSettings, config, overrides or ())
    answer = _evaluated(
        terminal,
        "finetune",
        settings,
        epochs=settings.epochs,
        dataset=dataset,
        data=data,
        split=split,
        checkpoint=checkpoint,
        encoder=encoder,
        mpp=mpp,
        fov_px=fov,
        coordinates=coordinates,
        device=resolve_device(device),
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
    terminal = open_terminal(as_json)
    answer = _evaluated(
        terminal,
        "detect",
        dataset=dataset,
        data=data,
        split=split,
        checkpoint=checkpoint,
        detector=detector,
        radius_um=radius_um,
        protocol=protocol,
        picture=picture,
    )
    title = f"{answer['checkpoint']} on {dataset} {split}, {radius_um:g} um"
    table = Table("rule", "F1", "precision", "recall", box=None, title=title)
    for rule, scores in answer["protocols"].items():
        table.add_row(rule, *(f"{scores[key]:.4f}" for key in ("f1", "precision", "recall")))
    terminal.results.print(table)
    last_line(terminal, answer)


def _evaluated(
    terminal: Terminal,
    name: "ScoreName",
    settings: Settings | None = None,
    *,
    epochs: int | None = None,
    **what: Any,  # noqa: ANN401  (the attributes of an Evaluation, as a command's options give them)
) -> dict[str, Any]:
    """A score, with its progress on the terminal."""
    from muse_core.evaluate.by_name import Evaluation, evaluate_model

    with open_display(terminal) as display:
        watcher = EvaluationDisplay(display, epochs)
        return evaluate_model(name, Evaluation(**what), settings=settings, watcher=watcher)


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
    terminal = open_terminal(as_json)
    answer = _evaluated(
        terminal,
        "ndc",
        dataset=dataset,
        data=data,
        split=split,
        checkpoint=checkpoint,
        radius_um=radius_um,
        protocol=protocol,
        min_score=min_score,
        picture=picture,
        device=resolve_device(device),
    )
    print_scores(terminal, answer, f"{answer['checkpoint']} on {dataset} {split}, {radius_um:g} um")
    for note in answer["notes"]:
        terminal.results.print(f"note: {note}", markup=False, soft_wrap=True)
    last_line(terminal, answer)
