"""One slide to infer, as a worker needs it, and what is known of it on the way: all small and picklable."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_core.infer.settings import InferSettings


@dataclass(frozen=True)
class InferJob:
    """One slide.

    Attributes:
        slide_id: its name.
        project: the partition of the dataset that it goes to.
        path: its file.
        md5: of the file where it is known.
        mpp_override: µm/px to take instead of the file's.
        inputs_hash: of all that its rows depend on.
        staging: the folder of unfinished work on it.
        tissue_file: where its tissue polygons go.
        tissue_edited: polygons to take instead of finding tissue.
        regions: polygons that limit the work.
        checkpoint: weights; None for those that ship.
        device: where tiles are decoded and the network runs.
        threads: cores to use.
        settings: the rest.
    """

    slide_id: str
    project: str
    path: Path
    md5: str | None
    mpp_override: float | None
    inputs_hash: str
    staging: Path
    tissue_file: Path
    tissue_edited: Path | None
    regions: Path | None
    checkpoint: Path | None
    device: str
    threads: int
    settings: InferSettings

    @property
    def folder(self) -> Path:
        """The staging folder of exactly these inputs."""
        return self.staging / self.inputs_hash

    @property
    def staged_tissue(self) -> Path:
        """Where the tissue polygons wait for the commit."""
        return self.folder / "tissue.geojson"

    @property
    def staged_plan(self) -> Path:
        """What planning found out."""
        return self.folder / "plan.json"

    @property
    def staged_part(self) -> Path:
        """Where the slide's nuclei wait for the commit."""
        return self.folder / "nuclei.parquet"


@dataclass(frozen=True)
class InferPlan:
    """What is known of a slide once its overview has been seen.

    Attributes:
        facts: columns of the slides table that come from the file itself.
        tissue_mm2: tissue to work on.
    """

    facts: dict[str, Any]
    tissue_mm2: float


@dataclass
class GroupDone:
    """What one group of tiles came to, on record once its nuclei are staged.

    Attributes:
        n_tiles: tiles in it.
        failed: (tile number, message) of tiles that could not be read.
        seconds: from when the group before it was done, or the work on the slide begun, until it was.
    """

    n_tiles: int
    failed: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class InferResult:
    """What a slide came to.

    Attributes:
        facts: of the slide and of the model.
        n_nuclei: rows of its part.
        n_tiles: tiles it was cut into.
        failed: messages of tiles that could not be read.
        seconds: by what they were spent on, in this run.
        gpu_use: mean share of time that the GPU was busy, where there is one and its driver tells.
        n_earlier_tiles: those that earlier runs had staged.
        earlier_seconds: what those took.
    """

    facts: dict[str, Any]
    n_nuclei: int
    n_tiles: int
    failed: list[str]
    seconds: dict[str, float]
    gpu_use: float | None = None
    n_earlier_tiles: int = 0
    earlier_seconds: float = 0.0
