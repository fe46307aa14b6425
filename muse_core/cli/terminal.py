"""How commands talk, and the options that several of them share."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
STOPPED = 130  # as after Ctrl-C: the run is not done, the same command with --resume goes on


@dataclass(frozen=True)
class Terminal:
    """Where a command talks: results on standard output, everything else on standard error."""

    as_json: bool
    results: Console
    notes: Console


def open_terminal(as_json: bool, verbose: bool = False) -> Terminal:
    """Set logging up and say where to print."""
    notes = Console(stderr=True)
    # On a terminal rich keeps log lines and progress bar apart; in a file each message stays one line.
    handler = RichHandler(console=notes, show_path=False) if notes.is_terminal else logging.StreamHandler()
    # httpx names whole URLs at INFO, and a presigned one is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level,
        format="%(message)s" if notes.is_terminal else "%(levelname)s %(message)s",
        handlers=[handler],
        force=True,
    )
    return Terminal(as_json, Console(), notes)


def print_json(values: dict[str, Any]) -> None:
    """One JSON object as the last line of standard output."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def tell_stopped(terminal: Terminal, facts: dict[str, Any]) -> NoReturn:
    """A run of training was asked to stop; it ends with status 130."""
    terminal.results.print("stopped early; the same command with --resume goes on from there", soft_wrap=True)
    if terminal.as_json:
        print_json({"done": False, **facts})
    raise typer.Exit(STOPPED)


@contextmanager
def stop_requests(terminal: Terminal) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGTERM or Ctrl-C into a request; the second has the effect it had before."""
    asked: list[int] = []
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def ask(signum: int, frame: object) -> None:
        asked.append(signum)
        for name, handler in before.items():
            signal.signal(name, handler)
        terminal.notes.print("stopping after this step, with a checkpoint")

    for name in before:
        signal.signal(name, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
