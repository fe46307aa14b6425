"""How a run over slides is carried out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from muse_core.cohort.output import Output
from muse_core.cohort.polygon_files import PolygonFiles
from muse_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CohortOptions:
    """What every run over slides is told; none of it changes the tables, but that a GPU's pixels differ by rounding.

    Attributes:
        command: which of `muse` it is; a folder is one command's.
        out: the output folder on this machine.
        url: of the store that the folder is the working copy of, as `output_of` has both; None for none.
        device: `cpu` or `cuda`: where slides are decoded, and where a network runs.
        workers: worker processes; None for one a usable core, 0 for this process alone.
        tissue_folder: edited tissue polygons `<slide_id>.geojson`, which replace those that would be found; other names
            that do are `PolygonFiles`'.
        keep_slides: keep fetched slides; otherwise each is deleted after use.
        share: let other runs with the same options do other slides of the folder meanwhile.
    """

    command: ClassVar[str]
    out: Path
    url: str | None = None
    device: str = "cpu"
    workers: int | None = 0
    tissue_folder: Path | None = None
    keep_slides: bool = True
    share: bool = False

    @cached_property
    def tissue_files(self) -> PolygonFiles:
        """Edited tissue polygons, by the slide that they are of."""
        return PolygonFiles(self.tissue_folder, "--tissue")

    @property
    def output(self) -> Output:
        """Where the results go."""
        return Output(self.out, self.url)

    def check(self) -> None:
        """Before anything is begun.

        Raises:
            ConfigError: the tissue folder is none.
        """
        if self.tissue_folder is not None and not self.tissue_folder.is_dir():
            raise ConfigError(f"--tissue {self.tissue_folder}: no such folder; give one with <slide_id>.geojson files")
