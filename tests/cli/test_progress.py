"""One progress display: what a terminal of 80 columns shows, and that a file gets nothing."""

import io
import re

from rich.console import Console

from muse_core.cli.progress import CohortDisplay, EvaluationDisplay, open_display
from muse_core.cli.terminal import Terminal
from muse_core.cohort.manifest import Manifest
from muse_core.cohort.records import SlideRecord


def shown(show, *, terminal: bool = True) -> list[str]:
    """The lines that a display of 80 columns ends with."""
    stream = io.StringIO()
    notes = Console(file=stream, force_terminal=terminal, width=80, color_system=None, legacy_windows=False)
    with open_display(Terminal(False, notes, notes)) as display:
        show(display)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").split("\n")


def test_a_cohort_is_one_line_of_slides_pieces_and_the_last_slide():
    def show(display):
        watcher = CohortDisplay(display, "tiles")
        watcher.begin(Manifest((None,) * 12, ()))
        watcher.pieces(1500)
        watcher.slide(SlideRecord({"slide_id": "TCGA-AO-A03V-01Z-00-DX1", "status": "done"}))

    line = [line for line in shown(show) if "1/12" in line][-1]
    assert "slides" in line
    assert "1,500 tiles" in line
    assert "TCGA-AO" in line
    assert len(line.rstrip()) <= 80


def test_an_evaluation_is_a_line_a_split():
    def show(display):
        watcher = EvaluationDisplay(display, 10)
        watcher.tiles("train", 8, 100)
        watcher.tiles("train", 8, 100)
        watcher.epoch(2, 0.5)

    text = "\n".join(shown(show))
    assert "tiles of train" in text
    assert "200 nuclei" in text
    assert "3/10" in text
    assert "validation 50.00 %" in text


def test_a_file_gets_nothing():
    assert shown(lambda display: display.show("steps", 1, 10, "loss 1.0"), terminal=False) in ([""], ["", ""])
