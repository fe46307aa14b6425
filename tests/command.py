"""`muse` as it is typed, in this process: it has imported everything already, which takes a new one seconds."""

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from muse_core.cli.app import main

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Ended:
    """What `subprocess.run` tells of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_muse(*words: object, cwd: Path | None = None) -> Ended:
    """Run the console script's own function with these words.

    Args:
        *words: what stands behind `muse`.
        cwd: folder to run it in; where the tests run unless given.

    Returns:
        Its exit status and what it said. A fault is raised here, where a process would show a traceback.
    """
    out, err = io.StringIO(), io.StringIO()
    typed = ["muse", *map(str, words)]
    streams = mock.patch.multiple(sys, argv=typed, stdout=out, stderr=err)
    with _own_process_kept(), streams, contextlib.chdir(cwd or Path.cwd()):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        else:
            status = 0
    return Ended(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_process_kept() -> Iterator[None]:
    """What a command sets for its process, which is the tests': put back."""
    heard = {name: signal.getsignal(name) for name in SIGNALS}
    root, environment = logging.getLogger(), dict(os.environ)
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for name, listener in heard.items():
            signal.signal(name, listener)
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
