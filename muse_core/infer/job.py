"""One slide to infer, as a worker needs it, and what is known of it on the way: all small and picklable."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_core.cohort.job import SlideJob
from muse_core.infer.model import Engine
from muse_core.infer.settings import InferSettings


@dataclass(frozen=True, kw_only=True)
class InferJob(SlideJob):
    """One slide to infer.

    Attributes:
        regions: polygons that limit the work.
        checkpoint: weights; None for those that ship.
        engine: what runs the network on the device.
        threads: cores to use.
        settings: the rest.
    """

    regions: Path | None
    checkpoint: Path | None
    threads: int
    settings: InferSettings
    engine: Engine = "torch"

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
        seen_mm2: what the network looks at, surroundings of tiles included.
    """

    facts: dict[str, Any]
    n_nuclei: int
    n_tiles: int
    failed: list[str]
    seconds: dict[str, float]
    gpu_use: float | None = None
    n_earlier_tiles: int = 0
    earlier_seconds: float = 0.0
    seen_mm2: float = 0.0
