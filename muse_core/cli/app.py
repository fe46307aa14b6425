"""`muse`: one sub-command a stage. Parses, loads settings, calls one function, and says in one line what went wrong."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from muse_core.build.patches import ImportOptions, ImportSettings, import_patches
from muse_core.build.run import BuildOptions, build_all, open_build
from muse_core.build.settings import BuildSettings
from muse_core.build.summary import write_summary
from muse_core.cli import detector, evaluate, finetune, infer, nuclei, pretrain
from muse_core.cli.demo import DemoPaths, clear_demo, draw_demo, guide_text
from muse_core.cli.doctor import diagnose
from muse_core.cli.terminal import AsJson, ConfigFile, Out, Overrides, Terminal, Verbose, open_terminal, print_json
from muse_core.cohort.manifest import Manifest, read_manifest, with_mpp, write_manifest
from muse_core.cohort.manifest.gdc import GDC_API, default_hold_out_paths, query_slides, read_hold_out, select_slides
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import BuildSummary, SlideRecord
from muse_core.config import load_settings
from muse_core.errors import ConfigError, ManifestError, MuseError, OutputError, WorkersLostError
from muse_core.machine.device import resolve_device
from muse_core.report import refresh_report
from muse_core.roi_dataset.dataset import NO_PROJECT

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

DetectorName = Annotated[
    str | None,
    typer.Option("--detector", metavar="NAME", help="learned (default), classical, none, or package.module:callable."),
]

app = typer.Typer(
    name="muse",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its panels cut option names at 80 columns
    pretty_exceptions_enable=False,
    help="From a manifest of whole-slide images to a queryable dataset of ROIs and nuclei.",
)
manifest_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check manifests, and write the TCGA cohort's."
)
app.add_typer(manifest_app, name="manifest")
app.add_typer(evaluate.evaluate_app, name="evaluate")
app.add_typer(nuclei.export_app, name="export")
app.command("report")(nuclei.report)
app.command("train-detector")(detector.train_detector)
app.command("pretrain")(pretrain.pretrain)
app.command("finetune")(finetune.finetune)
app.command("infer")(infer.infer)


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill; a KeyboardInterrupt the command-line library would answer itself."""


def main() -> None:
    """The console script: a MuseError is one line and exit status 1, or 2 where a setting or option is wrong."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    try:
        app()
    except ConfigError as error:
        _give_up(error, USAGE)
    except MuseError as error:
        _give_up(error, FAILED)
    except _Interrupted:
        sys.stderr.write("muse: interrupted; what was finished is kept, the same command goes on from there\n")
        sys.stderr.flush()
        # Threads of slides under way would keep the process; the next run takes those slides up.
        os._exit(INTERRUPTED)


@app.command("build-tcga-nu")
def build_tcga_nu(
    manifest: Annotated[
        Path, typer.Option("--manifest", metavar="M.csv", help="Manifest CSV, GDC manifest TSV, or a folder of slides.")
    ],
    out: Out,
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
    dask_scheduler: Annotated[
        str | None, typer.Option(metavar="ADDR", help="A running Dask scheduler, tcp://host:8786.")
    ] = None,
    keep_slides: Annotated[
        bool, typer.Option("--keep-slides/--no-keep-slides", help="Keep fetched slides, or delete each after use.")
    ] = True,
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
    settings = load_settings(BuildSettings, config, _with_detector(overrides, detector))
    options = BuildOptions(
        out=out,
        device=resolve_device(device),
        workers=workers,
        dask_scheduler=dask_scheduler,
        keep_slides=keep_slides,
        max_slides_on_disk=max_slides_on_disk,
        tissue_folder=tissue,
    )
    summary = _build(terminal, with_mpp(read_manifest(manifest), mpp), options, settings)
    raise typer.Exit(FAILED if summary.slides_failed else OK)


@app.command("import-patches")
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
    options = ImportOptions(images, mpp, out, project=project, workers=workers)
    with _slide_progress(terminal, 0, "patches") as tell:
        summary = import_patches(options, settings, on_images=tell.of)
    text = write_summary(RunPaths(out), summary, things="patches")
    terminal.results.print(text, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(summary.as_json())
    raise typer.Exit(FAILED if summary.slides_failed else OK)


@app.command("demo")
def demo(
    out: Out = Path("demo"), workers: Annotated[int | None, typer.Option(min=0)] = None, as_json: AsJson = False
) -> None:
    """Do the whole job on a small slide of real tissue: offline, a minute or two, ends with nuclei and a report.

    Example: `muse demo --out demo`
    """
    terminal = open_terminal(as_json)
    paths = DemoPaths(out)
    clear_demo(out)
    terminal.notes.print("Drawing a slide from scikit-image's immunohistochemistry image (real tissue) ...")
    manifest = read_manifest(draw_demo(paths.input))
    quiet = replace(terminal, as_json=False)
    built = _build(quiet, manifest, BuildOptions(out=paths.dataset, workers=workers), BuildSettings())
    from muse_core.infer import InferOptions, InferSettings  # not before: torch takes seconds and memory

    inferred = infer.infer_all(quiet, manifest, InferOptions(out=paths.nuclei), InferSettings())
    refresh_report(paths.nuclei, paths.report)
    terminal.results.print(guide_text(paths), markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"build": built.as_json(), "infer": inferred.as_json(), "report": str(paths.report)})
    raise typer.Exit(FAILED if built.slides_failed or inferred.slides_failed else OK)


@manifest_app.command("check")
def manifest_check(
    manifest: Annotated[
        Path, typer.Argument(metavar="M.csv", help="Manifest CSV, GDC manifest TSV, or a folder of slides.")
    ],
    as_json: AsJson = False,
) -> None:
    """Validate a manifest and say every problem with its row.

    Example: `muse manifest check data_manifests/sample.csv`
    """
    terminal = open_terminal(as_json)
    checked = read_manifest(manifest, check_files=True)
    errors = [problem for problem in checked.problems if problem.severity == "error"]
    for problem in checked.problems:
        place = f"row {problem.row}" if problem.row is not None else "manifest"
        terminal.results.print(f"{problem.severity}: {place}: {problem.message}", markup=False, soft_wrap=True)
    terminal.results.print(
        f"{manifest}: {len(checked.rows)} good rows, {len(errors)} errors", markup=False, soft_wrap=True
    )
    if as_json:
        print_json(
            {
                "rows": len(checked.rows),
                "errors": len(errors),
                "problems": [asdict(problem) for problem in checked.problems],
            }
        )
    raise typer.Exit(FAILED if errors else OK)


@manifest_app.command("gdc")
def manifest_gdc(
    out: Annotated[Path, typer.Option("--out", metavar="M.csv", help="The manifest to write.")],
    project: Annotated[
        list[str] | None, typer.Option("--project", metavar="P", help="TCGA-BRCA, ...; default every TCGA project.")
    ] = None,
    hold_out: Annotated[
        list[Path] | None,
        typer.Option(
            "--hold-out",
            metavar="LIST",
            help="Leave out these patients too: barcodes, BRCA-M2C's split file, OCELOT's metadata.json.",
        ),
    ] = None,
    default_hold_out: Annotated[
        bool, typer.Option("--default-hold-out/--no-default-hold-out", help="Leave out the lists of data_manifests/.")
    ] = True,
    api: Annotated[str, typer.Option(help="Base URL of the GDC API.")] = GDC_API,
    as_json: AsJson = False,
) -> None:
    """Write the TCGA cohort's manifest (open-access diagnostic slides) from the GDC API.

    Patients of benchmark test slides are left out whole.

    Example: `muse manifest gdc --project TCGA-BRCA --hold-out ocelot/metadata.json --out brca.csv`
    """
    terminal = open_terminal(as_json)
    paths = (*(default_hold_out_paths() if default_hold_out else ()), *(hold_out or ()))
    lists = {path.name: read_hold_out(path) for path in paths}
    slides = select_slides(query_slides(api, tuple(project or ())), lists)
    write_manifest(slides.rows, out)
    for name, count in slides.held_out.items():
        terminal.results.print(f"held out: {count} slides of patients in {name}", markup=False, soft_wrap=True)
    terminal.results.print(
        f"{out}: {len(slides.rows)} slides, {slides.size_bytes / 1e12:.2f} TB", markup=False, soft_wrap=True
    )
    if as_json:
        print_json({"slides": len(slides.rows), "bytes": slides.size_bytes, "held_out": slides.held_out})


@app.command("doctor")
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do, and how to mend what it cannot.

    Example: `muse doctor`
    """
    terminal = open_terminal(as_json)
    checks = diagnose()
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "found", "to mend"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(
            "[green]ok[/]" if check.ok else "[yellow]--[/]", check.name, check.found, "" if check.ok else check.fix
        )
    terminal.results.print(table)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})


def _with_detector(overrides: list[str] | None, detector: str | None) -> list[str]:
    """The overrides, and the detector's where it is given."""
    return [*(overrides or ()), *([f"detector={detector}"] if detector is not None else [])]


def _build(terminal: Terminal, manifest: Manifest, options: BuildOptions, settings: BuildSettings) -> BuildSummary:
    for problem in manifest.problems:
        terminal.notes.print(f"{problem.severity}: {problem.message}", markup=False, soft_wrap=True)
    if not manifest.rows and not manifest.problems:
        raise ManifestError("the manifest names no slide")
    with open_build(options, settings) as run:
        records: list[SlideRecord] = []
        try:
            with _slide_progress(terminal, len(manifest.rows)) as tell:
                for record in build_all(run, manifest.rows, partial(run.build, on_rois=tell.rois)):
                    records.append(record)
                    tell.slide(record.slide_id)
        except (OutputError, WorkersLostError):
            run.finish(manifest, records)  # what was built can be queried, if there is room for the table
            raise
        summary = run.finish(manifest, records)
    text = write_summary(run.paths, summary)
    terminal.results.print(text, markup=False, highlight=False, soft_wrap=True)
    if terminal.as_json:
        print_json(summary.as_json())
    return summary


class _Tell:
    """What a running build reports, shown as a bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("slides", total=total, rois=0, last="")
        self._rois = 0

    def rois(self, count: int) -> None:
        """More ROIs are done. Called from several threads; rich locks."""
        self._rois += count
        self._progress.update(self._task, rois=self._rois)

    def of(self, done: int, total: int) -> None:
        """This many of so many are done, each one ROI."""
        self._progress.update(self._task, completed=done, total=total, rois=done)

    def slide(self, slide_id: str) -> None:
        """A slide is done."""
        self._progress.update(self._task, advance=1, last=slide_id[:40])


@contextmanager
def _slide_progress(terminal: Terminal, total: int, things: str = "slides") -> Iterator[_Tell]:
    columns: tuple[ProgressColumn, ...] = (
        SpinnerColumn(),
        TextColumn(things),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rois]} ROIs"),
    )
    columns += (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[last]}", style="dim"))
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        yield _Tell(progress, total)


def _give_up(error: MuseError, status: int) -> NoReturn:
    sys.stderr.write(f"muse: {error}\n")
    if "--json" in sys.argv:
        print_json({"error": str(error), "reason": error.reason})
    sys.exit(status)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise _Interrupted
