"""`muse infer`; what needs torch is imported when it runs: that takes seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse_core import api
from muse_core.cli.build import say_problems
from muse_core.cli.options import AsJson, ConfigFile, OutOrUrl, Overrides, Scene, Share, Verbose
from muse_core.cli.progress import CohortDisplay, open_display
from muse_core.cli.terminal import FAILED, OK, Terminal, open_terminal, print_json
from muse_core.cohort.output import known_ids_of, output_of
from muse_core.cohort.summary import summary_text
from muse_core.config import load_settings

if TYPE_CHECKING:
    from muse_core.cohort.manifest import Manifest
    from muse_core.infer import InferSettings, InferSummary


def infer(
    slides: Annotated[
        str,
        typer.Option(
            "--slides", metavar="PATH", help="A slide or image, a folder or glob of them, or a manifest; or a URL."
        ),
    ],
    out: OutOrUrl,
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
    scene: Scene = None,
    tissue: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Edited tissue polygons, <slide_id>.geojson, to use instead.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Worker processes that slides are shared out to; 0 for this one.", min=0)
    ] = 0,
    keep_slides: Annotated[
        bool, typer.Option("--keep-slides/--no-keep-slides", help="Keep fetched slides, or delete each after use.")
    ] = True,
    share: Share = False,
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
    from muse_core.cohort.manifest import with_scene
    from muse_core.infer import InferSettings, read_inputs

    terminal = open_terminal(as_json, verbose)
    summary = infer_told(
        terminal,
        with_scene(read_inputs(slides, mpp, known=known_ids_of(output_of(out), patience_s=60 if share else 0)), scene),
        out,
        settings=load_settings(InferSettings, config, overrides or ()),
        checkpoint=checkpoint,
        device=device,
        workers=workers,
        regions=regions,
        tissue=tissue,
        keep_slides=keep_slides,
        share=share,
    )
    raise typer.Exit(FAILED if summary.what_failed() else OK)


def infer_told(
    terminal: Terminal,
    manifest: "Manifest",
    out: str | Path,
    *,
    settings: "InferSettings | None" = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    regions: Path | None = None,
    tissue: Path | None = None,
    keep_slides: bool = True,
    share: bool = False,
) -> "InferSummary":
    """Nuclei of a manifest, with progress and what came of it on the terminal; arguments as of `api.infer`."""
    say_problems(terminal, manifest)
    with open_display(terminal) as display:
        summary = api.infer(
            manifest,
            out,
            settings=settings,
            checkpoint=checkpoint,
            device=device,
            workers=workers,
            regions=regions,
            tissue=tissue,
            keep_slides=keep_slides,
            share=share,
            watcher=CohortDisplay(display, "tiles"),
        )
    terminal.results.print(summary_text(summary, output_of(out).paths), markup=False, highlight=False, soft_wrap=True)
    if terminal.as_json:
        print_json(summary.as_json())
    return summary
