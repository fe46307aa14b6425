"""`muse pretrain`; what needs torch is imported when it runs: that takes seconds."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse_core.cli.options import AsJson, Out, Overrides, Verbose
from muse_core.cli.progress import Display, open_display
from muse_core.cli.terminal import STOPPED, Terminal, open_terminal, print_json, stop_requests
from muse_core.machine.device import resolve_device

if TYPE_CHECKING:
    from muse_core.pretrain.trainer import PretrainResult
    from muse_core.training.progress import Progress


def pretrain(
    rois: Annotated[str, typer.Option("--rois", metavar="DIR", help="ROI dataset: folder or URL.")],
    out: Out,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="F.toml|NAME", help="A recipe: TOML, or one that ships; default muse-nano."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where it is trained: auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Pretrain a MUSE backbone on a ROI dataset, without labels.

    SIGTERM or Ctrl-C writes a checkpoint and ends with status 130. Several GPUs: run it by torchrun.

    Example: `muse pretrain --rois runs/patches --out runs/muse`

    Example: `torchrun --nproc-per-node 8 -m muse_core.cli pretrain --rois runs/tcga --out runs/muse --config vit-b16`
    """
    from muse_core.evaluate.representation.probe import probe_for
    from muse_core.pretrain.settings import load_pretrain_settings
    from muse_core.pretrain.trainer import pretrain as train

    first = os.environ.get("RANK", "0") == "0"
    terminal = open_terminal(as_json, verbose and first)
    settings = load_pretrain_settings(config, overrides or [])
    with stop_requests(terminal) as should_stop, open_display(terminal, shown=first) as display:
        result = train(
            rois,
            out,
            settings=settings,
            device=resolve_device(device),
            resume=resume,
            probe=probe_for(settings) if first else _no_probe,
            should_stop=should_stop,
            on_progress=partial(_show, display),
        )
    if first:
        _report(terminal, result)
    raise typer.Exit(STOPPED if result.step < result.steps else 0)


def _no_probe(backbone: object) -> float:
    raise AssertionError("the first process alone is probed")


def _show(display: Display, state: "Progress") -> None:
    note = f"loss {state.loss:.3f}, {state.images_per_s:.1f} ROIs/s, {state.data_wait_share:.0%} waiting"
    display.show("steps", state.step, state.steps, note)


def _report(terminal: Terminal, result: "PretrainResult") -> None:
    done = result.step == result.steps
    end = "" if done else "; stopped early, the same command with --resume goes on from there"
    terminal.results.print(
        f"{result.backbone}: {result.n_parameters:,} parameters, step {result.step} of {result.steps},"
        f" {result.seconds:.0f} s{end}",
        markup=False,
        soft_wrap=True,
    )
    if terminal.as_json:
        print_json(
            {
                "backbone": str(result.backbone),
                "step": result.step,
                "steps": result.steps,
                "done": done,
                "loss": result.loss if result.loss == result.loss else None,
                "seconds": result.seconds,
                "n_parameters": result.n_parameters,
            }
        )
