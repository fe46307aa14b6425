"""Progress on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from muse_core.cli.terminal import Terminal


class Tell:
    """What a running build reports, shown as a bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("slides", total=total, rois=0, last="")
        self._rois = 0

    def rois(self, count: int) -> None:
        """More ROIs are done. Called from several threads; rich locks."""
        self._rois += count
        self._progress.update(self._task, rois=self._rois)

    def of(self, done: int, total: int) -> None:
        """This many of so many are done, each one ROI."""
        self._progress.update(self._task, completed=done, total=total, rois=done)

    def slide(self, slide_id: str) -> None:
        """A slide is done."""
        self._progress.update(self._task, advance=1, last=slide_id[:40])


@contextmanager
def slide_progress(terminal: Terminal, total: int, things: str = "slides") -> Iterator[Tell]:
    """A bar over slides, or over the `things` named; nothing where the terminal shows none."""
    columns: tuple[ProgressColumn, ...] = (
        SpinnerColumn(),
        TextColumn(things),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rois]} ROIs"),
    )
    columns += (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[last]}", style="dim"))
    with Progress(*columns, console=terminal.notes, disable=not terminal.notes.is_terminal) as progress:
        yield Tell(progress, total)
