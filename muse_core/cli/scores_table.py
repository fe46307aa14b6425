"""Scores as a table on a terminal."""

from typing import Any

from rich.table import Table

from muse_core.cli.terminal import Terminal, print_json

_FILE_WIDTH = 120  # characters, of a table that does not go to a terminal


def print_scores(terminal: Terminal, answer: dict[str, Any], title: str) -> None:
    """F1 by rule: detection, each class and their mean with its 95 % interval, and the mean averaged over images."""
    first = next(iter(answer["protocols"].values()))
    table = Table(box=None, title=title, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name.replace("_", " ") for name in first["classes"]]
    for name in ("rule", "detection", *names, "mean", "95 %", "per\nimage"):
        table.add_column(name, no_wrap=name in ("rule", "95 %"), overflow="fold")
    for rule, scores in answer["protocols"].items():
        low, high = scores["mean_class_f1_interval"]
        table.add_row(
            rule,
            *(_number(one["f1"]) for one in (scores["detection"], *scores["classes"].values())),
            _number(scores["mean_class_f1"]),
            "-" if low is None else f"{_number(low, 3)}-{_number(high, 3)}".replace("0.", "."),
            _number(scores["per_image"]["mean_class_f1"]),
        )
    if not terminal.results.is_terminal:  # a file or a pipe has no width of its own
        terminal.results.width = _FILE_WIDTH
    terminal.results.print(table)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def last_line(terminal: Terminal, answer: dict[str, Any]) -> None:
    """The answer as JSON on the last line, where that was asked for."""
    if terminal.as_json:
        print_json(answer)
