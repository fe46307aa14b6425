"""Slides that were in work when an earlier process of an output folder died: one of them may have killed it.

A library that decodes slides can take the process along (a segmentation fault), and then nobody is left to say which
slide it was. So each slide leaves a mark while it is in work. A mark that is still there when the next run begins makes
its slide a suspect, which is first read in a process of its own.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from muse_core.errors import OutputError, SlideReadError
from muse_core.machine.files import safe_name
from muse_core.slide.probe import death_of

logger = logging.getLogger(__name__)


class Suspects:
    """The marks of one output folder, whose lock this run holds. Safe to use from several threads."""

    def __init__(self, folder: Path | None, known: Iterable[str] = ()) -> None:
        """Take the marks that are there for those of earlier runs.

        Args:
            folder: of the marks; made when the first slide is in work. None where others keep marks.
            known: safe names of slides that are suspects whatever the marks say.
        """
        self._folder = folder
        self._earlier = set(known)
        if folder is not None and folder.is_dir():
            self._earlier |= {one.name for one in folder.glob("*")}

    def suspect(self, slide_id: str) -> None:
        """A slide that was in work when some other run died."""
        self._earlier.add(safe_name(slide_id))

    @contextmanager
    def in_work(self, slide_id: str) -> Iterator[None]:
        """Mark a slide for the length of the block.

        Raises:
            OutputError: the mark cannot be written.
        """
        if self._folder is None:
            yield
            return
        mark = self._folder / safe_name(slide_id)
        try:
            self._folder.mkdir(exist_ok=True)
            mark.touch()
        except OSError as error:
            raise OutputError(f"{mark}: cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def check(self, slide_id: str, path: Path, scene: int | None = None) -> None:
        """Of a suspect, find out whether a process that reads its file dies; others cost nothing.

        Args:
            slide_id: the slide.
            path: its file.
            scene: which of several pictures in it; None for the largest.

        Raises:
            SlideReadError: it does (reason reader_died).
        """
        if safe_name(slide_id) not in self._earlier:
            return
        logger.info("%s: was in work when an earlier run died; it is read in a process of its own first", slide_id)
        if (death := death_of(path, whole=True, scene=scene)) is not None:
            text = (
                f"{path}: an earlier run died with it in work, and its reader {death}; convert it to a tiled JPEG TIFF"
            )
            raise SlideReadError(text, reason="reader_died")

    def forget(self) -> None:
        """The run ends by itself: nothing that is still marked killed it."""
        if self._folder is None or not self._folder.is_dir():
            return
        for mark in self._folder.glob("*"):
            mark.unlink(missing_ok=True)
