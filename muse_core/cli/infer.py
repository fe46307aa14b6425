"""`muse infer`; what needs torch is imported when it runs: that takes seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from muse_core.cli.options import AsJson, ConfigFile, Out, Overrides, Verbose
from muse_core.cli.terminal import Terminal, open_terminal, print_json
from muse_core.config import load_settings
from muse_core.errors import OutputError, WorkersLostError
from muse_core.machine.device import resolve_device
from muse_core.ndc.registry import resolve_checkpoint

if TYPE_CHECKING:
    from muse_core.cohort.manifest import Manifest
    from muse_core.cohort.records import SlideRecord
    from muse_core.infer import InferOptions, InferSettings, InferSummary


def infer(
    slides: Annotated[
        Path,
        typer.Option("--slides", metavar="PATH", help="A slide or image, a folder or glob of them, or a manifest."),
    ],
    out: Out,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="F.safetensors", help="Weights of finetune, or a registry folder; default those that ship."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where tiles are decoded and the network runs: auto, cpu, cuda.")
    ] = "auto",
    regions: Annotated[
        Path | None,
        typer.Option(metavar="F.geojson", help="Work only there; or a folder of <slide_id>.geojson, one a slide."),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="um/px of slides whose manifest row gives none, whatever the file says; of images."
        ),
    ] = None,
    tissue: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Edited tissue polygons, <slide_id>.geojson, to use instead.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Worker processes that slides are shared out to; 0 for this one.", min=0)
    ] = 0,
    keep_slides: Annotated[
        bool, typer.Option("--keep-slides/--no-keep-slides", help="Keep fetched slides, or delete each after use.")
    ] = True,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Find and classify the nuclei of whole slides: GeoParquet below OUT/nuclei, one row a nucleus.

    Running it again does only what is missing or changed, also in the middle of a slide.

    PNG and JPEG images work like slides; they need --mpp.

    Example: `muse infer --slides slides/ --out runs/nuclei`
    """
    from muse_core.infer import InferOptions, InferSettings, read_inputs

    terminal = open_terminal(as_json, verbose)
    settings = load_settings(InferSettings, config, overrides or ())
    options = InferOptions(
        out=out,
        checkpoint=resolve_checkpoint(checkpoint),
        device=resolve_device(device),
        workers=workers,
        regions=regions,
        tissue_folder=tissue,
        keep_slides=keep_slides,
    )
    summary = infer_all(terminal, read_inputs(slides, mpp), options, settings)
    raise typer.Exit(1 if summary.what_failed() else 0)


def infer_all(
    terminal: Terminal, manifest: "Manifest", options: "InferOptions", settings: "InferSettings"
) -> "InferSummary":
    """Infer every slide, with a bar; the summary is printed."""
    from muse_core.cohort.run import do_all
    from muse_core.cohort.summary import summary_text
    from muse_core.infer import check_inputs, open_infer

    for problem in manifest.problems:
        terminal.notes.print(f"{problem.severity}: {problem.message}", markup=False, soft_wrap=True)
    check_inputs(manifest, options.regions)
    with open_infer(options, settings) as run:
        records: list[SlideRecord] = []
        try:
            with _shown(terminal, len(manifest.rows)) as bar:
                for record in do_all(run, manifest.rows, partial(run.do_slide, tell=bar.tiles)):
                    records.append(record)
                    bar.slide(record.slide_id)
        except (OutputError, WorkersLostError):
            run.finish(manifest, records)  # what was done can be queried, if there is room for the table
            raise
        summary = run.finish(manifest, records)
    terminal.results.print(summary_text(summary, run.paths), markup=False, highlight=False, soft_wrap=True)
    if terminal.as_json:
        print_json(summary.as_json())
    return summary


class _Bar:
    """What a run reports, shown as a bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("slides", total=total, tiles=0, last="")
        self._tiles = 0

    def tiles(self, count: int) -> None:
        """More tiles are done. Called from several threads; rich locks."""
        self._tiles += count
        self._progress.update(self._task, tiles=self._tiles)

    def slide(self, slide_id: str) -> None:
        """A slide is done."""
        self._progress.update(self._task, advance=1, last=slide_id[:40])


@contextmanager
def _shown(terminal: Terminal, total: int) -> Iterator[_Bar]:
    columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), TextColumn("slides"), BarColumn(), MofNCompleteColumn())
    columns += (TextColumn("{task.fields[tiles]} tiles"), TimeElapsedColumn())
    columns += (TextColumn("{task.fields[last]}", style="dim"),)
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        yield _Bar(progress, total)
