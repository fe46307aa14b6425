"""`muse build-tcga-nu` and `muse import-patches`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from muse_core import api
from muse_core.build.settings import BuildSettings, ImportSettings
from muse_core.build.summary import BuildSummary
from muse_core.cli.options import AsJson, ConfigFile, Out, OutOrUrl, Overrides, Scene, Share, Verbose
from muse_core.cli.progress import CohortDisplay, open_display
from muse_core.cli.terminal import FAILED, OK, Terminal, open_terminal, print_json
from muse_core.cohort.manifest import Manifest, read_manifest, with_mpp, with_scene
from muse_core.cohort.output import known_ids_of, output_of
from muse_core.cohort.summary import summary_text
from muse_core.config import load_settings
from muse_core.schemas import NO_PROJECT

DetectorName = Annotated[
    str | None,
    typer.Option("--detector", metavar="NAME", help="learned (default), classical, none, or package.module:callable."),
]


def build_tcga_nu(
    manifest: Annotated[
        str,
        typer.Option(
            "--manifest", metavar="M.csv", help="Manifest CSV, GDC manifest TSV, or a folder of slides; a URL."
        ),
    ],
    out: OutOrUrl,
    config: ConfigFile = None,
    overrides: Overrides = None,
    detector: DetectorName = None,
    device: Annotated[str, typer.Option(help="Where slides are decoded: auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; default one a usable core, 0 for none.", min=0)
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(metavar="F", help="um/px of every slide whose manifest row gives none, whatever the file says."),
    ] = None,
    scene: Scene = None,
    dask_scheduler: Annotated[
        str | None, typer.Option(metavar="ADDR", help="A running Dask scheduler, tcp://host:8786.")
    ] = None,
    keep_slides: Annotated[
        bool, typer.Option("--keep-slides/--no-keep-slides", help="Keep fetched slides, or delete each after use.")
    ] = True,
    share: Share = False,
    max_slides_on_disk: Annotated[
        int | None, typer.Option(help="With --no-keep-slides: fetched slides on the disk at once; default 8.", min=1)
    ] = None,
    tissue: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Edited tissue polygons, <slide_id>.geojson, to use instead.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Build the ROI dataset of a manifest: acquire, tissue, ROIs, nuclei, Parquet.

    Running it again does only what is missing or changed.

    Example: `muse build-tcga-nu --manifest data_manifests/sample.csv --out runs/sample`
    """
    terminal = open_terminal(as_json, verbose)
    known = known_ids_of(output_of(out), patience_s=60 if share else 0)
    summary = build_told(
        terminal,
        with_scene(with_mpp(read_manifest(manifest, known=known), mpp), scene),
        out,
        settings=load_settings(BuildSettings, config, _with_detector(overrides, detector)),
        device=device,
        workers=workers,
        dask_scheduler=dask_scheduler,
        keep_slides=keep_slides,
        share=share,
        max_slides_on_disk=max_slides_on_disk,
        tissue=tissue,
    )
    raise typer.Exit(FAILED if summary.slides_failed else OK)


def import_patches_command(
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="Folder of PNG, JPEG and TIFF patches, searched whole.")
    ],
    mpp: Annotated[float, typer.Option(metavar="F", help="um/px of every patch; image files do not say it.")],
    out: Out,
    project: Annotated[str, typer.Option(metavar="P", help="Which project's the patches are.")] = NO_PROJECT,
    config: ConfigFile = None,
    overrides: Overrides = None,
    detector: DetectorName = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; default one a usable core, 0 for none.", min=0)
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make the ROI dataset of ready-made patches: each image is one slide and one ROI, nuclei are found in it.

    Running it again does only what is missing or changed.

    Example: `muse import-patches --images patches --mpp 0.5 --out runs/patches`
    """
    terminal = open_terminal(as_json, verbose)
    settings = load_settings(ImportSettings, config, _with_detector(overrides, detector))
    with open_display(terminal) as display:
        summary = api.import_patches(
            images,
            out,
            mpp=mpp,
            project=project,
            settings=settings,
            workers=workers,
            on_images=partial(display.show, "patches"),
        )
    _say(terminal, summary_text(summary, output_of(out).paths), summary)
    raise typer.Exit(FAILED if summary.slides_failed else OK)


def _with_detector(overrides: list[str] | None, detector: str | None) -> list[str]:
    """The overrides, and the detector's where it is given."""
    return [*(overrides or ()), *([f"detector={detector}"] if detector is not None else [])]


def build_told(
    terminal: Terminal,
    manifest: Manifest,
    out: str | Path,
    *,
    settings: BuildSettings | None = None,
    device: str = "cpu",
    workers: int | None = None,
    dask_scheduler: str | None = None,
    keep_slides: bool = True,
    share: bool = False,
    max_slides_on_disk: int | None = None,
    tissue: Path | None = None,
) -> BuildSummary:
    """A manifest built, with its progress and what came of it on the terminal; arguments as of `api.build`."""
    say_problems(terminal, manifest)
    with open_display(terminal) as display:
        summary = api.build(
            manifest,
            out,
            settings=settings,
            device=device,
            workers=workers,
            dask_scheduler=dask_scheduler,
            keep_slides=keep_slides,
            share=share,
            max_slides_on_disk=max_slides_on_disk,
            tissue=tissue,
            watcher=CohortDisplay(display, "ROIs"),
        )
    _say(terminal, summary_text(summary, output_of(out).paths), summary)
    return summary


def say_problems(terminal: Terminal, manifest: Manifest) -> None:
    """What is wrong with a manifest, a line each."""
    for problem in manifest.problems:
        terminal.notes.print(f"{problem.severity}: {problem.message}", markup=False, soft_wrap=True)


def _say(terminal: Terminal, text: str, summary: BuildSummary) -> None:
    terminal.results.print(text, markup=False, highlight=False, soft_wrap=True)
    if terminal.as_json:
        print_json(summary.as_json())
