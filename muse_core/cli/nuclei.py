"""`muse export qupath`, `muse export csv` and `muse report`: what is done with a nuclei dataset."""

from functools import partial
from pathlib import Path
from typing import Annotated

import shapely
import typer

from muse_core.cli.options import AsJson, ConfigFile, Overrides, Verbose
from muse_core.cli.progress import open_display
from muse_core.cli.terminal import Terminal, open_terminal, print_json
from muse_core.config import load_settings
from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import NucleiDataset, read_regions
from muse_core.nuclei_dataset.export import Selection, qupath_origin, write_csv, write_qupath
from muse_core.report import ReportSettings, write_report

export_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write nuclei in formats that other programs open."
)

Nuclei = Annotated[
    str, typer.Option("--nuclei", metavar="DIR", help="What muse infer --out wrote, or its folder nuclei; or the URL.")
]
SlideId = Annotated[str, typer.Option("--slide-id", metavar="ID", help="The slide, by its slide_id.")]
RegionFile = Annotated[
    Path | None,
    typer.Option("--region", metavar="F.geojson", help="Only nuclei inside these areas, as QuPath exports them."),
]
ClassNames = Annotated[
    list[str] | None, typer.Option("--class", metavar="NAME", help="Only nuclei of this class; may be repeated.")
]


@export_app.command("qupath")
def export_qupath(
    nuclei: Nuclei,
    slide_id: SlideId,
    out: Annotated[Path, typer.Option("--out", metavar="F.geojson", help="The file to write.")],
    region: RegionFile = None,
    class_names: ClassNames = None,
    crop: Annotated[
        bool,
        typer.Option("--crop/--no-crop", help="Count px from the scanner's bounds, as QuPath does."),
    ] = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a slide's nuclei as detections for QuPath: drag the file onto the open slide.

    Example: `muse export qupath --nuclei runs/lab --slide-id S1 --out S1.geojson`
    """
    terminal = open_terminal(as_json, verbose)
    dataset = NucleiDataset(nuclei)
    origin = qupath_origin(dataset, slide_id) if crop else (0.0, 0.0)
    selection = _selection(dataset, slide_id, region, class_names, origin)
    with open_display(terminal) as display:
        tell = partial(display.show, "nuclei", total=_n_nuclei(dataset, slide_id))
        count = write_qupath(out, dataset, selection, origin_level0=origin, on_progress=tell)
    _say(terminal, out, count, {"slide_id": slide_id, "origin_level0": list(origin)})


@export_app.command("csv")
def export_csv(
    nuclei: Nuclei,
    slide_id: SlideId,
    out: Annotated[Path, typer.Option("--out", metavar="F.csv", help="The file to write.")],
    region: RegionFile = None,
    class_names: ClassNames = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a slide's nuclei as CSV: all columns but geometry and embedding, level-0 px and um.

    Example: `muse export csv --nuclei runs/lab --slide-id S1 --out S1.csv`
    """
    terminal = open_terminal(as_json, verbose)
    dataset = NucleiDataset(nuclei)
    origin = qupath_origin(dataset, slide_id) if region else (0.0, 0.0)
    selection = _selection(dataset, slide_id, region, class_names, origin)
    with open_display(terminal) as display:
        tell = partial(display.show, "nuclei", total=_n_nuclei(dataset, slide_id))
        count = write_csv(out, selection.tables(dataset), on_progress=tell)
    _say(terminal, out, count, {"slide_id": slide_id})


def report(
    nuclei: Nuclei,
    out: Annotated[Path, typer.Option("--out", metavar="F.html", help="The page to write.")],
    slide_id: Annotated[
        list[str] | None, typer.Option("--slide-id", metavar="ID", help="Only this slide; may be repeated.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained page about a slide or a cohort: densities, classes, scores, typical and doubtful nuclei.

    Example: `muse report --nuclei runs/lab --out lab.html`
    """
    terminal = open_terminal(as_json, verbose)
    settings = load_settings(ReportSettings, config, overrides or ())
    with open_display(terminal) as display:
        tell = partial(display.show, "slides")
        written = write_report(nuclei, out, slide_ids=slide_id or (), settings=settings, on_slide=tell)
    terminal.results.print(
        f"{out}: {written.n_nuclei:,} nuclei on {written.n_slides:,} slides, {written.n_sections} of them shown, "
        f"{written.n_bytes / 1e6:.1f} MB",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if as_json:
        print_json({"out": str(out), **written._asdict(), "settings": settings.model_dump(mode="json")})


def _n_nuclei(dataset: NucleiDataset, slide_id: str) -> int:
    return sum(part.n_nuclei for part in dataset.parts(slide_id))


def _selection(
    dataset: NucleiDataset,
    slide_id: str,
    region: Path | None,
    class_names: list[str] | None,
    origin_level0: tuple[float, float],
) -> Selection:
    area = None
    if region is not None:
        found = list(read_regions(region, dataset.part(slide_id).provenance, origin_level0=origin_level0))
        if not found:
            raise DatasetError(f"{region}: holds no area; draw at least one polygon")
        area = shapely.union_all([one.area_level0 for one in found])
    return Selection(slide_id, area, tuple(class_names or ()))


def _say(terminal: Terminal, out: Path, count: int, facts: dict[str, object]) -> None:
    terminal.results.print(f"{out}: {count:,} nuclei", markup=False, highlight=False, soft_wrap=True)
    if terminal.as_json:
        print_json({"out": str(out), "n_nuclei": count, **facts})
