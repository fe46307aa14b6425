"""The demo: a pyramidal slide of any size, drawn of real tissue that a dependency ships, and where its results lie."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from muse_core.cli.build import build_told
from muse_core.cli.infer import infer_told
from muse_core.cli.options import AsJson, Out
from muse_core.cli.terminal import FAILED, OK, open_terminal, print_json
from muse_core.cohort.manifest import ManifestRow, read_manifest, write_manifest
from muse_core.cohort.paths import RunPaths
from muse_core.errors import ConfigError
from muse_core.report import refresh_report
from muse_core.slide.drawn import draw_slide

DEMO_SLIDE_ID = "ihc-colon"
DEMO_PX = (9600, 7200)

_STAIN_NOTE = (
    "The tissue is immunohistochemistry, for which the model has no classes: look at where nuclei are, not at what\n"
    "they are called. The report says so, as of any slide unlike what the model knows (`doubt` in slides.parquet)."
)


@dataclass(frozen=True)
class DemoPaths:
    """Where the parts of a demo lie.

    Attributes:
        out: the demo's folder.
    """

    out: Path

    @property
    def input(self) -> Path:
        """The slide and its manifest."""
        return self.out / "input"

    @property
    def dataset(self) -> Path:
        """What build-tcga-nu writes."""
        return self.out / "dataset"

    @property
    def nuclei(self) -> Path:
        """What infer writes."""
        return self.out / "nuclei"

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"


def guide_text(paths: DemoPaths) -> str:
    """What to open, for people."""
    places = (
        (paths.report, "open it first: nuclei, density maps, typical and doubtful ones"),
        (RunPaths(paths.dataset).contact_sheet(DEMO_SLIDE_ID), "tissue, ROIs and their nuclei"),
        (paths.nuclei / "nuclei", "GeoParquet, one row a nucleus: DuckDB, GeoPandas, QuPath by muse export"),
        (paths.dataset / "rois", "Parquet, one row a ROI: what muse pretrain learns from"),
    )
    width = max(len(str(path)) for path, _ in places)
    shown = "".join(f"  {path!s:<{width}}  {what}\n" for path, what in places)
    view = f"To look at every nucleus, and to correct some: muse view --nuclei {paths.nuclei}\n"
    return f"What to look at:\n{shown}{view}{_STAIN_NOTE}\n"


def draw_demo(folder: Path) -> Path:
    """Draw the demo slide and write its manifest.

    Args:
        folder: gets `ihc-colon.svs` and `manifest.csv`.

    Returns:
        The manifest's path.

    Raises:
        ConfigError: scikit-image is not installed.
        OutputError: the folder cannot be written.
    """
    slide = folder / f"{DEMO_SLIDE_ID}.svs"
    draw_slide(slide, *DEMO_PX)
    row = ManifestRow(
        row=2,
        slide_id=DEMO_SLIDE_ID,
        case_id="demo-case",
        project="DEMO",
        uri=slide.name,
        size=None,
        md5=None,
        mpp=None,
    )
    manifest = folder / "manifest.csv"
    write_manifest([row], manifest)
    return manifest


def clear_demo(folder: Path) -> None:
    """Remove an earlier demo, so that the demo always shows the whole job.

    Raises:
        ConfigError: there is something in its place that no demo made.
    """
    paths = DemoPaths(folder)
    parts = [paths.input, paths.dataset, paths.nuclei]
    if any(part.exists() for part in (*parts, paths.report)) and not (paths.input / f"{DEMO_SLIDE_ID}.svs").exists():
        raise ConfigError(f"{folder}: holds something that no demo made; give another --out")
    paths.report.unlink(missing_ok=True)
    for part in reversed(parts):  # the sign of a demo goes last
        shutil.rmtree(part, ignore_errors=True)


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
    built = build_told(quiet, manifest, paths.dataset, workers=workers)
    inferred = infer_told(quiet, manifest, paths.nuclei)
    refresh_report(paths.nuclei, paths.report)
    terminal.results.print(guide_text(paths), markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"build": built.as_json(), "infer": inferred.as_json(), "report": str(paths.report)})
    raise typer.Exit(FAILED if built.slides_failed or inferred.slides_failed else OK)
