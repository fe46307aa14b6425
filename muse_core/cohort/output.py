"""What `--out` names: a folder on this machine, or one of an object store with its working copy here."""

from dataclasses import dataclass
from pathlib import Path

from muse_core.cohort.home import Home, ObjectHome, working_folder
from muse_core.cohort.objects import ObjectFolder, is_object_url, open_store, url_of_path
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import known_ids
from muse_core.cohort.uris import path_of, scheme_of
from muse_core.errors import ConfigError
from muse_core.machine.files import safe_name
from muse_core.machine.lock import locked


@dataclass(frozen=True)
class Output:
    """An output folder.

    Attributes:
        path: the folder on this machine.
        url: of the store that it is the working copy of; None where the folder is the output itself.
    """

    path: Path
    url: str | None = None

    @property
    def paths(self) -> RunPaths:
        """Its layout on this machine."""
        return RunPaths(self.path, self.url)

    def home(self) -> Home:
        """Where its results live.

        Raises:
            ConfigError: the URL is of no use.
        """
        return Home(self.paths) if self.url is None else ObjectHome(self.paths, ObjectFolder(self.url))


def known_ids_of(output: Output) -> dict[str, str]:
    """The slide ids that the folder's slides had in earlier runs, by their paths or URIs, for files to keep them.

    Raises:
        OutputError: the store cannot be read, or another run works with the copy on this machine.
    """
    if output.url is not None:
        # Not from slides.parquet, which a run writes at its end: after a kill it knows nothing of what is done.
        with locked(output.path):
            output.home().pull()
    return known_ids(output.paths.records)


def output_of(text: str | Path) -> Output:
    """The output that a path or URL names.

    Raises:
        ConfigError: a URL of no store, with a password, or whose driver is not installed.
    """
    text = url_of_path(text)
    if isinstance(text, Path):
        return Output(text)
    if not is_object_url(text):
        path = path_of(text)
        if path is None:
            raise ConfigError(
                f"--out {text}: {scheme_of(text)} cannot be written; give a folder, or s3://bucket/folder"
            )
        return Output(path)
    url = text.rstrip("/")
    open_store(url)
    return Output(working_folder(safe_name(url)), url)
