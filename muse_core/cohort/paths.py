"""Every path a run writes, in one place; slides and imported patches keep out of one another's folder."""

from dataclasses import dataclass
from pathlib import Path

from muse_core.errors import OutputError
from muse_core.machine.files import safe_name


@dataclass(frozen=True)
class RunPaths:
    """The layout of an output folder. Names made from slide ids are percent-encoded and never leave their folder."""

    out: Path

    @property
    def slides_table(self) -> Path:
        """One row a slide of the manifest."""
        return self.out / "slides.parquet"

    @property
    def summary(self) -> Path:
        """What the last run did, for people."""
        return self.out / "summary.md"

    @property
    def settings(self) -> Path:
        """The resolved settings of the last run."""
        return self.out / "settings.json"

    @property
    def downloads(self) -> Path:
        """Where fetched slides lie while they are needed."""
        return self.out / "slides"

    @property
    def records(self) -> Path:
        """One JSON a finished slide; a slide with a record is finished."""
        return self.out / "records"

    @property
    def patches(self) -> Path:
        """One JSON a finished chunk of imported patches, and which folder they came from."""
        return self.out / "patches"

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """Folders in which nobody but a run writes."""
        names = ("records", "tissue", "contact_sheets", "nuclei", "checksums", ".staging")
        return tuple(self.out / name for name in names)

    def record(self, slide_id: str) -> Path:
        """The record of one slide."""
        return self.records / f"{safe_name(slide_id)}.json"

    def tissue(self, slide_id: str) -> Path:
        """The tissue polygons of one slide, GeoJSON in level-0 px."""
        return self.out / "tissue" / f"{safe_name(slide_id)}.geojson"

    def contact_sheet(self, slide_id: str) -> Path:
        """The picture of one slide's ROIs and nuclei."""
        return self.out / "contact_sheets" / f"{safe_name(slide_id)}.jpg"

    def staging(self, slide_id: str) -> Path:
        """Unfinished work on one slide, one sub-folder a set of inputs."""
        return self.out / ".staging" / safe_name(slide_id)


def refuse_patches(paths: RunPaths) -> None:
    """Keep slides out of a folder of imported patches: either's rerun would drop the other's rows from the tables.

    Raises:
        OutputError: the folder holds imported patches (reason output_mixed).
    """
    if paths.patches.exists():
        raise OutputError(
            f"{paths.out}: holds imported patches; slides and patches need a folder each, give another --out",
            reason="output_mixed",
        )


def refuse_slides(paths: RunPaths) -> None:
    """Keep patches out of a folder of slides, or of ROIs that no import wrote.

    Raises:
        OutputError: the folder holds a dataset of slides (reason output_mixed).
    """
    rois = (paths.out / "rois").exists()
    if paths.records.exists() or (rois and not paths.patches.exists()):
        raise OutputError(
            f"{paths.out}: holds a dataset of slides; slides and patches need a folder each, give another --out",
            reason="output_mixed",
        )
