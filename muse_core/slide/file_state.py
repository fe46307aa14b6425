"""Whether a slide's files are still those that were opened."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from muse_core.errors import SlideChangedError, SlideReadError
from muse_core.slide.file_set import files_of_slide


@dataclass(frozen=True)
class FileState:
    """What tells a file from a later one of the same name.

    Its number on the disk plays no part: some network file systems give a file a new one whenever they are asked.

    Attributes:
        size: bytes.
        modified_ns: time of the last change to its content.
    """

    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The state of a file now.

        Raises:
            OSError: it is not there.
        """
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Compare with the state of the file now; 2 µs on a local disk.

        Raises:
            SlideChangedError: it is another, has grown or shrunk, or is gone.
        """
        try:
            now = FileState.of(path)
        except OSError as error:
            raise SlideChangedError(
                f"{path}: is gone while it is read ({error.strerror}); put it back and run again"
            ) from None
        if now == self:
            return
        what = f"was {self.size} bytes and is {now.size}" if now.size != self.size else "was written to or replaced"
        raise SlideChangedError(f"{path}: changes while it is read ({what}); wait until it is whole and run again")


@dataclass(frozen=True)
class SlideState:
    """The state of every file that a slide is read from: MRXS, VMS and DICOM slides are several.

    Attributes:
        files: each with its state, the one that was named first.
    """

    files: tuple[tuple[Path, FileState], ...]

    @classmethod
    def of(cls, path: Path) -> Self:
        """The state of a slide now.

        Raises:
            SlideReadError: one of its files cannot be looked at.
        """
        try:
            return cls(tuple((one, FileState.of(one)) for one in files_of_slide(path)))
        except OSError as error:
            raise SlideReadError(f"{path}: cannot be opened: {error.strerror or error}") from None

    def check(self) -> None:
        """Compare with the states now; 2 µs a file on a local disk.

        Raises:
            SlideChangedError: a file is another, has grown or shrunk, or is gone.
        """
        for path, state in self.files:
            state.check(path)
