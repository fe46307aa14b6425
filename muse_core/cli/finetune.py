"""`muse finetune`; what needs torch is imported when it runs: that takes seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_core.cli.datasets import Classes, DatasetsToml, Folders, Layouts, LeaveOut, labelled_data
from muse_core.cli.options import AsJson, ConfigFile, Device, Out, Overrides, Verbose
from muse_core.cli.progress import Display, open_display
from muse_core.cli.scores_table import last_line, print_scores
from muse_core.cli.terminal import Terminal, open_terminal, stop_requests, tell_stopped
from muse_core.machine.device import one_gpu, resolve_device

if TYPE_CHECKING:
    from muse_core.ndc import finetune as tuning
    from muse_core.training.progress import Progress


def finetune(
    out: Out,
    dataset: Layouts = None,
    data: Folders = None,
    datasets: DatasetsToml = None,
    classes: Classes = None,
    leave_out: LeaveOut = None,
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
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="heat; paper: proposals alone, 1024 px; muse-nano-ndc-first or muse-nano-ndc-last, of what ships.",
        ),
    ] = "heat",
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

    Example: `muse finetune --recipe paper --dataset puma --data data/puma --init lfov.safetensors --out runs/paper`

    Example: `muse finetune --datasets data_manifests/many_organs.toml --data data --out runs/ndc`
    """
    from muse_core.ndc import data as sources
    from muse_core.ndc.finetune import finetune as train
    from muse_core.ndc.folds import cross_validate
    from muse_core.ndc.recipe import load_finetune_settings

    terminal = open_terminal(as_json, verbose)
    settings = load_finetune_settings(recipe, config, overrides or ())
    tissue = sources.unlabelled_regions(unlabelled, mpp=unlabelled_mpp) if unlabelled else []
    given = labelled_data(
        dataset, data, datasets, classes=classes, leave_out=leave_out, labels="dots", side_px=settings.side_px
    )
    learned_from = sources.finetune_data(given, unlabelled=tissue)
    with (
        one_gpu(resolve_device(device)) as own_device,
        stop_requests(terminal) as should_stop,
        open_display(terminal) as display,
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
                on_progress=lambda fold, state: _show(display, settings.steps, f"fold {fold + 1} of {folds}, ", state),
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
                on_progress=lambda state: _show(display, settings.steps, "", state),
            )
    if folds:
        _tell_folds(terminal, answer, out)
    else:
        _tell_run(terminal, result)


def _tell_folds(terminal: Terminal, answer: dict[str, Any] | None, out: Path) -> None:
    if answer is None:
        tell_stopped(terminal, {"out": str(out)})
        return
    print_scores(terminal, answer, f"{answer['folds']} folds by case, {answer['n_patches']} regions")
    last_line(terminal, {"done": True, **answer})


def _tell_run(terminal: Terminal, result: "tuning.FinetuneResult") -> None:
    facts = {"step": result.step, "steps": result.steps, "seconds": result.seconds}
    if result.step < result.steps:
        tell_stopped(terminal, facts)
        return
    print_scores(terminal, result.scores, f"{result.checkpoint} on validation, {result.seconds:.0f} s of training")
    last_line(terminal, {"checkpoint": str(result.checkpoint), "done": True, **facts, **result.scores})


def _show(display: Display, steps: int, before: str, state: "Progress") -> None:
    f1 = f", mean class F1 {state.score:.3f}" if state.score is not None else ""
    display.show("steps", state.step, steps, f"{before}loss {state.loss:.3f}{f1}")
