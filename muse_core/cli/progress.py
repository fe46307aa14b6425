"""One progress display for all commands, on a terminal; nothing where standard error goes to a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from muse_core.cli.terminal import Terminal
from muse_core.cohort.watch import Watcher
from muse_core.evaluate.watch import EvaluationWatcher

if TYPE_CHECKING:
    from muse_core.cohort.manifest import Manifest
    from muse_core.cohort.records import SlideRecord

_BAR_WIDTH = 20  # characters, so that a line fits in 80
_NAME_WIDTH = 24  # of a slide's id


class _Count(ProgressColumn):
    """How many of how many; how many where the end is not known."""

    def render(self, task: Task) -> Text:
        done, total = int(task.completed), task.total
        return Text(f"{done:,}/{int(total):,}" if total else f"{done:,}" if done else "", style="progress.download")


class Display:
    """Lines of progress, one a thing that is counted. Called from several threads; rich locks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lines: dict[str, TaskID] = {}

    def show(self, things: str, done: float = 0, total: float | None = None, note: str = "") -> None:
        """So many of these things are done, of so many where that is known."""
        if things not in self._lines:
            self._lines[things] = self._progress.add_task(things, total=total, note="")
        self._progress.update(self._lines[things], completed=done, total=total, note=note)


class CohortDisplay(Watcher):
    """A run over slides, as a line: slides, pieces of them, and the last that was done."""

    def __init__(self, display: Display, pieces: str) -> None:
        self._display, self._things = display, pieces
        self._done = self._total = self._pieces = 0
        self._last = ""

    def begin(self, manifest: "Manifest") -> None:
        """See `Watcher`."""
        self._total = len(manifest.rows)
        self._show()

    def pieces(self, count: int) -> None:
        """See `Watcher`."""
        self._pieces += count
        self._show()

    def slide(self, record: "SlideRecord") -> None:
        """See `Watcher`."""
        self._done, self._last = self._done + 1, record.slide_id
        self._show()

    def _show(self) -> None:
        note = f"{self._pieces:,} {self._things}  {self._last[:_NAME_WIDTH]}"
        self._display.show("slides", self._done, self._total, note)


class EvaluationDisplay(EvaluationWatcher):
    """An evaluation, as a line a split and one for fine-tuning."""

    def __init__(self, display: Display, epochs: int | None = None) -> None:
        self._display, self._epochs = display, epochs
        self._counts: dict[str, tuple[int, int]] = {}

    def tiles(self, split: str, tiles: int, nuclei: int) -> None:
        """See `EvaluationWatcher`."""
        before = self._counts.get(split, (0, 0))
        self._counts[split] = (before[0] + tiles, before[1] + nuclei)
        self._display.show(f"tiles of {split}", self._counts[split][0], note=f"{self._counts[split][1]:,} nuclei")

    def epoch(self, epoch: int, accuracy: float) -> None:
        """See `EvaluationWatcher`."""
        self._display.show("epochs", epoch + 1, self._epochs, f"validation {100 * accuracy:.2f} %")


@contextmanager
def open_display(terminal: Terminal, *, shown: bool = True) -> Iterator[Display]:
    """A display on standard error, there while the block runs; silent where that is no terminal or it is not shown."""
    note = TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        _Count(),
        note,
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=terminal.notes, disable=not (shown and terminal.notes.is_terminal)) as progress:
        yield Display(progress)
