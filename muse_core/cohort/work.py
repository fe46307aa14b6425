"""What is done to the slides of a run: the one thing in which a build and an inference differ."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from muse_core.cohort.job import SlideJob
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import CohortSummary
from muse_core.config import Settings

Tell = Callable[[int], None]  # told the number of pieces of a slide that were just done

# Puts staged files (staged and final path of each) in place of those that the dataset held of the slide.
Commit = Callable[[Iterable[tuple[Path, Path]], Iterable[Path]], None]

SummaryMade = TypeVar("SummaryMade", bound=CohortSummary, covariant=True)


class Work(Protocol[SummaryMade]):
    """One kind of work on slides."""

    @property
    def settings(self) -> Settings:
        """Written beside the tables."""

    @property
    def schema(self) -> pa.Schema:
        """Of the slides table."""

    @property
    def counted(self) -> tuple[str, ...]:
        """Columns of it that are 0 for a slide on which the work fails."""

    def check_together(self, manifest: Manifest, earlier: list[SlideRecord]) -> None:
        """Look at the manifest as a whole, once, before its first slide.

        Args:
            manifest: what will be asked for.
            earlier: records that the folder holds of slides that it does not name.

        Raises:
            OutputError: its slides and those earlier ones don't go together.
        """

    def inputs_hash(self, row: ManifestRow) -> str:
        """What a slide's rows depend on, as a short text.

        Raises:
            MuseError, OSError: what they depend on cannot be read.
        """

    def rules(self) -> str:
        """What all slides' rows depend on, as a short text: runs that share a folder must have it alike."""

    def pieces(self) -> str:
        """How a slide is cut up, as a short text: pieces that another run staged are taken up where it is the same."""

    def check_wanted(self, row: ManifestRow) -> None:
        """Whether a slide is to be worked on at all; asked before it is fetched.

        Raises:
            TissueError: not, reason no_regions; what an earlier run made of the slide is kept.
        """

    def do(self, row: ManifestRow, job: SlideJob, commit: Commit, tell: Tell) -> dict[str, Any]:
        """Do a slide and commit it.

        Args:
            row: its row of the manifest.
            job: the slide, its file on this machine.
            commit: called once, when all is staged.
            tell: told of pieces as they are done.

        Returns:
            Values of its row of the slides table, and `parts`, a tuple of paths below the output folder.

        Raises:
            MuseError: as the slide's reason; others are taken for crashes.
        """

    def clear(self, slide_id: str) -> None:
        """Take away what the folder holds of a slide that is not done."""

    def held(self, known: SlideRecord) -> str:
        """What an earlier run made of a slide, in words: `6 ROIs`."""

    def sum_up(self, records: list[SlideRecord], seconds: float) -> SummaryMade:
        """What the run came to.

        Args:
            records: of its slides.
            seconds: that it took.
        """
