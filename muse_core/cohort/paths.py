"""Every path a run writes, in one place; slides and imported patches keep out of one another's folder."""

from dataclasses import dataclass
from pathlib import Path

from muse_core.errors import OutputError
from muse_core.machine.files import safe_name, whole_file


@dataclass(frozen=True)
class RunPaths:
    """The layout of an output folder. Names made from slide ids are percent-encoded and never leave their folder.

    Attributes:
        out: the folder on this machine.
        url: of the store that it is the working copy of; None where it is the output itself.
    """

    out: Path
    url: str | None = None

    @property
    def place(self) -> str:
        """The folder as people name it."""
        return self.url or str(self.out)

    def shown(self, path: object) -> str:
        """A path below the folder as people find it: in the store, where that is the output's home."""
        if self.url is None or not isinstance(path, Path):
            return str(path)
        return f"{self.url}/{path.relative_to(self.out).as_posix()}"

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
    def command(self) -> Path:
        """Which command made what the folder holds."""
        return self.out / "command.txt"

    @property
    def run(self) -> Path:
        """Who works in the folder now, or was cut off there."""
        return self.out / "run.json"

    @property
    def inbox(self) -> Path:
        """Of a watched folder: what has arrived, and what failed and waits."""
        return self.out / "inbox.json"

    @property
    def in_work(self) -> Path:
        """A mark for each slide that is in work now, or was when a run died."""
        return self.out / ".in-work"

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

    def pictures(self, slide_id: str) -> Path:
        """The folder of pictures kept of a slide for reports."""
        return self.out / "pictures" / safe_name(slide_id)

    def checksum(self, slide_id: str) -> Path:
        """The checksum of a slide's files, for runs that look whether it changed."""
        return self.out / "checksums" / f"{safe_name(slide_id)}.json"

    def staging(self, slide_id: str) -> Path:
        """Unfinished work on one slide, one sub-folder a set of inputs."""
        return self.out / ".staging" / safe_name(slide_id)


def claim(paths: RunPaths, command: str) -> None:
    """Make a locked folder one command's: another's rerun would drop this one's rows from the tables.

    Args:
        paths: of the output folder.
        command: `build-tcga-nu`, `import-patches` or `infer`.

    Raises:
        OutputError: the folder holds what another command made (reason output_mixed), or tables in an earlier
            version's layout (output_old), or cannot be written.
    """
    _refuse_old_layout(paths)
    holder = command_of(paths)
    if holder not in (None, command):
        raise OutputError(
            f"{paths.place}: holds what `muse {holder}` made, and `muse {command}` needs a folder of its own; give "
            "another --out",
            reason="output_mixed",
        )
    if holder is None or not paths.command.exists():
        with whole_file(paths.command) as file:
            file.write_text(f"{command}\n", encoding="utf-8")


def _refuse_old_layout(paths: RunPaths) -> None:
    """Keep parts of today's layout out of a folder that holds those of an earlier version: no reader opens both."""
    for table in (paths.out / name for name in ("nuclei", "rois")):
        if next(table.glob("project=*"), None) is not None:
            raise OutputError(
                f"{table}: its parts lie in folders named project=..., as an earlier version of muse wrote them; muse "
                f"still reads them. To add slides give another --out; to redo these, rm -r '{table}' and run the "
                "same command again",
                reason="output_old",
            )


def command_of(paths: RunPaths) -> str | None:
    """The command that made what a folder holds; None for a folder that none has claimed."""
    try:
        return paths.command.read_text(encoding="utf-8").strip()
    except OSError:
        pass
    # Of a folder from before commands claimed theirs.
    made_by = {"patches": "import-patches", "nuclei": "infer", "rois": "build-tcga-nu"}
    return next((command for name, command in made_by.items() if (paths.out / name).exists()), None)
