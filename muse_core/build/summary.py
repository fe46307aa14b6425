"""What a build did."""

from dataclasses import dataclass
from typing import ClassVar

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import CohortSummary


@dataclass
class BuildSummary(CohortSummary):
    """Of a run of build-tcga-nu."""

    verb: ClassVar[str] = "built"

    n_rois: int = 0

    def add(self, record: SlideRecord) -> None:
        """Count one slide."""
        super().add(record)
        self.n_rois += record.row.get("n_rois") or 0

    def found(self) -> str:
        """ROIs and nuclei."""
        return f"{self.n_rois:,} ROIs and {super().found()}"

    def places(self, paths: RunPaths) -> dict[str, object]:
        """Where the tables are, and the pictures where there are any."""
        pictures = paths.out / "contact_sheets"
        places = super().places(paths) | {"ROIs with their nuclei": paths.out / "rois"}
        return places | ({"Pictures to look at": pictures} if pictures.exists() else {})


@dataclass
class ImportSummary(BuildSummary):
    """Of a run of import-patches."""

    things: ClassVar[str] = "patches"
