"""One slide's work in a build: what is asked, planned and done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_core.build.rois import RoiBox
from muse_core.build.settings import BuildSettings
from muse_core.cohort.job import SlideJob


@dataclass(frozen=True, kw_only=True)
class BuildJob(SlideJob):
    """One slide to build."""

    settings: BuildSettings

    def staged_part(self, chunk: int) -> Path:
        """Where a chunk's rows wait for the commit."""
        return self.folder / f"part-{chunk:04d}.parquet"


@dataclass(frozen=True)
class BuildPlan:
    """What is known of a slide once its overview has been seen.

    Attributes:
        facts: columns of the slides table that come from the file itself (md5, size, reader, vendor, mpp, levels).
        tissue_mm2: tissue area.
        boxes: the chosen ROIs, in chunk order.
    """

    facts: dict[str, Any]
    tissue_mm2: float
    boxes: tuple[RoiBox, ...]

    def chunked(self, most: int) -> list[list[tuple[int, RoiBox]]]:
        """The numbered ROIs in pieces of work of at most `most`.

        They are two pieces at least, so that one slide keeps two workers busy. The number of workers plays no part:
        a rerun elsewhere cuts the same pieces.
        """
        numbered = list(enumerate(self.boxes))
        size = min(most, -(-len(numbered) // 2))
        return [numbered[start : start + size] for start in range(0, len(numbered), size)]


@dataclass(frozen=True)
class ChunkResult:
    """What one chunk wrote; failed holds (roi_id, message) of ROIs that could not be read."""

    n_rois: int
    n_nuclei: int
    failed: tuple[tuple[str, str], ...]
