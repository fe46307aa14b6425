"""`muse finetune` and `muse evaluate ndc`; what needs torch is imported when one runs: that takes seconds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

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

from muse_core.cli.detector import Data
from muse_core.cli.evaluate import evaluate_app
from muse_core.cli.terminal import (
    STOPPED,
    AsJson,
    ConfigFile,
    Out,
    Overrides,
    Terminal,
    Verbose,
    open_terminal,
    print_json,
    stop_requests,
)
from muse_core.config import load_settings
from muse_core.errors import ConfigError
from muse_core.machine.device import one_gpu, resolve_device
from muse_core.ndc.registry import resolve_checkpoint

if TYPE_CHECKING:
    from muse_core.ndc import finetune as tuning
    from muse_core.ndc import run as training

_FILE_WIDTH = 120  # characters, of a table that does not go to a terminal

Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu or cuda.")]
Dataset = Annotated[str, typer.Option("--dataset", metavar="NAME", help="brca-m2c, ocelot or puma.")]
FinetuneDataset = Annotated[str, typer.Option("--dataset", metavar="NAME", help="brca-m2c, ocelot, puma, or lab.")]


def finetune(
    dataset: FinetuneDataset,
    data: Data,
    out: Out,
    init: Annotated[
        str,
        typer.Option(metavar="CKPT|imagenet|none", help="Where to start: a file, muse-nano, muse-nano-ndc, or these."),
    ] = "muse-nano",
    unlabelled: Annotated[
        str | None, typer.Option(metavar="DIR", help="Tissue without labels for L_cons: ROI dataset or images.")
    ] = None,
    unlabelled_mpp: Annotated[float | None, typer.Option(metavar="F", help="um/px of those images.")] = None,
    folds: Annotated[
        int, typer.Option(metavar="N", help="Cross-validate by case over training and validation instead.", min=0)
    ] = 0,
    config: ConfigFile = None,
    overrides: Overrides = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last state in --out.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a network that finds and names nuclei: labelled patches, or a lab's own dots, to a checkpoint.

    SIGTERM or Ctrl-C writes the state and ends with status 130.

    Example: `muse finetune --dataset puma --data data/puma --init runs/muse/muse-backbone.safetensors --out runs/ndc`

    Example: `muse finetune --dataset lab --data dots --init muse-nano-ndc --out runs/ours`
    """
    from muse_core.ndc import data as sources
    from muse_core.ndc.finetune import cross_validate
    from muse_core.ndc.finetune import finetune as train
    from muse_core.ndc.settings import FinetuneSettings

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(FinetuneSettings, config, overrides or ())
    tissue = sources.unlabelled_regions(unlabelled, mpp=unlabelled_mpp) if unlabelled else []
    learned_from = sources.data_of(dataset, data, unlabelled=tissue, settings=settings)
    with (
        one_gpu(resolve_device(device)) as own_device,
        stop_requests(terminal) as should_stop,
        _bar(terminal, settings.steps) as tell,
    ):
        if folds:
            answer = cross_validate(
                learned_from,
                out,
                folds=folds,
                init=init,
                settings=settings,
                device=own_device,
                resume=resume,
                should_stop=should_stop,
                on_progress=lambda fold, state: tell(state, f"fold {fold + 1} of {folds}, "),
            )
        else:
            result = train(
                learned_from,
                out,
                init=init,
                settings=settings,
                device=own_device,
                resume=resume,
                should_stop=should_stop,
                on_progress=lambda state: tell(state, ""),
            )
    if folds:
        _tell_folds(terminal, answer, out)
    else:
        _tell_run(terminal, result)


def _tell_folds(terminal: Terminal, answer: dict[str, Any] | None, out: Path) -> None:
    if answer is None:
        _tell_stopped(terminal, {"out": str(out)})
        return
    _print_scores(terminal, answer, f"{answer['folds']} folds by case, {answer['n_patches']} regions")
    _last_line(terminal, {"done": True, **answer})


def _tell_run(terminal: Terminal, result: "tuning.FinetuneResult") -> None:
    facts = {"step": result.step, "steps": result.steps, "seconds": result.seconds}
    if result.step < result.steps:
        _tell_stopped(terminal, facts)
        return
    _print_scores(terminal, result.scores, f"{result.checkpoint} on validation, {result.seconds:.0f} s of training")
    _last_line(terminal, {"checkpoint": str(result.checkpoint), "done": True, **facts, **result.scores})


def _tell_stopped(terminal: Terminal, facts: dict[str, Any]) -> NoReturn:
    terminal.results.print("stopped early; the same command with --resume goes on from there", soft_wrap=True)
    _last_line(terminal, {"done": False, **facts})
    raise typer.Exit(STOPPED)


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
    _print_scores(terminal, answer, f"{name} on {dataset} {split}, {radius_um:g} um")
    for note in answer["notes"]:
        terminal.results.print(f"note: {note}", markup=False, soft_wrap=True)
    _last_line(terminal, answer)


def _print_scores(terminal: Terminal, answer: dict[str, Any], title: str) -> None:
    """F1 by rule: detection, each class and their mean with its 95 % interval, and the mean averaged over images."""
    first = next(iter(answer["protocols"].values()))
    table = Table(box=None, title=title, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name.replace("_", " ") for name in first["classes"]]
    for name in ("rule", "detection", *names, "mean", "95 %", "per\nimage"):
        table.add_column(name, no_wrap=name in ("rule", "95 %"), overflow="fold")
    for rule, scores in answer["protocols"].items():
        low, high = scores["mean_class_f1_interval"]
        table.add_row(
            rule,
            *(_number(one["f1"]) for one in (scores["detection"], *scores["classes"].values())),
            _number(scores["mean_class_f1"]),
            "-" if low is None else f"{_number(low, 3)}-{_number(high, 3)}".replace("0.", "."),
            _number(scores["per_image"]["mean_class_f1"]),
        )
    if not terminal.results.is_terminal:  # a file or a pipe has no width of its own
        terminal.results.width = _FILE_WIDTH
    terminal.results.print(table)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _last_line(terminal: Terminal, answer: dict[str, Any]) -> None:
    if terminal.as_json:
        print_json(answer)


@contextmanager
def _bar(terminal: Terminal, steps: int) -> Iterator[Callable[["training.Progress", str], None]]:
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        task = progress.add_task("steps", total=steps, note="")

        def tell(state: "training.Progress", before: str) -> None:
            f1 = f", mean class F1 {state.mean_class_f1:.3f}" if state.mean_class_f1 is not None else ""
            progress.update(task, completed=state.step, note=f"{before}loss {state.loss:.3f}{f1}")

        yield tell
