"""`muse manifest check` and `muse manifest gdc`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from muse_core.cli.options import AsJson
from muse_core.cli.terminal import FAILED, OK, open_terminal, print_json
from muse_core.cohort.manifest import read_manifest, write_manifest
from muse_core.cohort.manifest.gdc import GDC_API, default_hold_out_paths, query_slides, read_hold_out, select_slides

manifest_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check manifests, and write the TCGA cohort's."
)


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
