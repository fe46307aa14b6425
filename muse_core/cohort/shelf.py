"""Small files that several runs see: one way to read, write and list them, on a disk and in an object store."""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from muse_core.machine.files import output_errors, whole_file


class Shelf(Protocol):
    """A folder of small files; `ObjectFolder` is one as it is. All may raise OutputError."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place of one that may be there."""

    def create(self, name: str, data: bytes) -> bool:
        """Put a file where there is none; of many callers at once one succeeds."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone are none the worse."""

    def state(self, name: str) -> str | None:
        """What changes when a file does; None where there is none."""

    def states(self, below: str = "") -> dict[str, str]:
        """Every file of a folder in it and below, by name, with what changes when it does."""

    def names(self, below: str = "") -> set[str]:
        """The same without what costs a look at each file."""


class DiskFolder:
    """A folder of a disk that machines may share.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place of one that may be there; it appears whole.

        Raises:
            OutputError: it cannot be written.
        """
        with whole_file(self._root / name) as file:
            file.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """Put a file where there is none, whole; of many callers at once one succeeds, over NFS too.

        Bytes must be the caller's own: an answer of NFS that was lost on its way is told by them.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._root / name
        whole = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(data)
            try:
                os.link(whole, path)
            except FileExistsError:
                return self.read(name) == data
            finally:
                whole.unlink(missing_ok=True)
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are gone are none the worse."""
        folders = set()
        for name in names:
            (self._root / name).unlink(missing_ok=True)
            folders.add((self._root / name).parent)
        for folder in folders:
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def state(self, name: str) -> str | None:
        """Size and time of change; None where there is no such file."""
        try:
            found = (self._root / name).stat()
        except FileNotFoundError:
            return None
        return f"{found.st_mtime_ns} {found.st_size}"

    def states(self, below: str = "") -> dict[str, str]:
        """Every file of a folder in it and below, by name, with its size and time of change."""
        found = {name: self.state(name) for name in self.names(below)}
        return {name: state for name, state in found.items() if state is not None}

    def names(self, below: str = "") -> set[str]:
        """Every file of a folder in it and below; those that are being written are none yet."""
        found: set[str] = set()
        with suppress(FileNotFoundError):
            for folder, _, files in os.walk(self._root / below):
                at = Path(folder).relative_to(self._root)
                found |= {(at / file).as_posix() for file in files if not file.endswith(".tmp")}
        return found
