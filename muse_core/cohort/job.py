"""One slide of a run, as a worker needs it, and the way in: open it, and say what its file tells."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_core.cohort.records import slide_facts
from muse_core.errors import MuseError
from muse_core.slide import Slide, open_slide
from muse_core.slide.file_set import md5_of_slide


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """One slide: small and picklable. What is asked of it besides is a subclass's.

    Attributes:
        slide_id: its name.
        case_id: its patient's.
        project: the partition of the dataset that it goes to.
        path: its file.
        md5: of the file where it is known.
        mpp_override: µm/px to take instead of the file's.
        scene: which of several pictures in the file; None for the largest.
        inputs_hash: of all that its rows depend on.
        pieces: how it is cut up, which changes none of its rows.
        staging: the folder of unfinished work on it.
        tissue_file: where its tissue polygons go.
        tissue_edited: polygons to take instead of finding tissue.
        device: where it is decoded, and where a network runs: `cpu` or `cuda`.
    """

    slide_id: str
    case_id: str
    project: str
    path: Path
    md5: str | None
    mpp_override: float | None
    inputs_hash: str
    pieces: str
    staging: Path
    tissue_file: Path
    tissue_edited: Path | None
    device: str = "cpu"
    scene: int | None = None

    @property
    def folder(self) -> Path:
        """The staging folder of exactly these inputs, cut into exactly these pieces."""
        return self.staging / f"{self.inputs_hash}-{self.pieces}"

    @property
    def staged_tissue(self) -> Path:
        """Where the tissue polygons wait for the commit."""
        return self.folder / "tissue.geojson"

    @property
    def staged_plan(self) -> Path:
        """What planning found out."""
        return self.folder / "plan.json"


@contextmanager
def opened(job: SlideJob) -> Iterator[tuple[Slide, dict[str, Any]]]:
    """The slide, open, and the columns of the slides table that its file tells; what fails inside takes them along.

    Raises:
        SlideReadError, MppError: the file or its µm/px is of no use.
    """
    with open_slide(job.path, mpp_override=job.mpp_override, scene=job.scene) as slide:
        facts = slide_facts(slide) | {"md5": job.md5 or md5_of_slide(job.path), "size": job.path.stat().st_size}
        try:
            yield slide, facts
        except MuseError as error:
            error.facts = facts
            raise
