"""What `--out` names: a folder on this machine, or one of an object store with its working copy here."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from muse_core.cohort.home import Home, ObjectHome, working_folder
from muse_core.cohort.objects import ObjectFolder, is_object_url, open_store, url_of_path
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import known_ids
from muse_core.cohort.uris import path_of, scheme_of
from muse_core.errors import ConfigError, OutputError
from muse_core.machine.files import safe_name
from muse_core.machine.lock import locked


@dataclass(frozen=True)
class Output:
    """An output folder.

    Attributes:
        path: the folder on this machine.
        url: of the store that it is the working copy of; None where the folder is the output itself.
        held: whether this process holds the working copy's lock.
    """

    path: Path
    url: str | None = None
    held: bool = False

    @property
    def paths(self) -> RunPaths:
        """Its layout on this machine."""
        return RunPaths(self.path, self.url)

    def home(self, *, share: bool = False) -> Home:
        """Where its results live.

        Args:
            share: for a run that shares it with others.

        Raises:
            ConfigError: the URL is of no use.
        """
        return Home(self.paths) if self.url is None else ObjectHome(self.paths, ObjectFolder(self.url), share=share)


@contextmanager
def opened_output(text: str | Path, *, share: bool = False) -> Iterator[Output]:
    """The output that a path or URL names; shared runs of one machine get a working copy each of one in a store.

    Raises:
        ConfigError: as of `output_of`.
    """
    output = output_of(text)
    if output.url is None or not share:
        yield output
        return
    with ExitStack() as stack:
        for number in itertools.count(1):
            path = output.path.with_name(f"{output.path.name}-{number}")
            try:
                stack.enter_context(locked(path))
                break
            except OutputError as error:
                if error.reason != "output_locked":
                    raise
        yield replace(output, path=path, held=True)


def known_ids_of(output: Output, *, patience_s: float = 0.0) -> dict[str, str]:
    """The slide ids that the folder's slides had in earlier runs, by their paths or URIs, for files to keep them.

    Args:
        output: the folder.
        patience_s: how long another run that works with the copy on this machine is waited for.

    Raises:
        OutputError: the store cannot be read, or another run works with the copy on this machine.
    """
    if output.url is not None:
        # Not from slides.parquet, which a run writes at its end: after a kill it knows nothing of what is done.
        with nullcontext() if output.held else locked(output.path, patience_s=patience_s):
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
