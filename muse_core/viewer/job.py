"""The teaching that a page asked for: `muse teach` in a process of its own, and how far it is."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError
from muse_core.viewer.run import ViewedRun

PROGRESS_NAME = "progress.json"  # in LAB/taught; muse teach writes it, pages show it
_MOST_STEPS = 5000


class TeachJob:
    """At most one at a time. It goes on when the page is closed, and ends with the server."""

    def __init__(self, run: ViewedRun) -> None:
        """Args: run: whose labels and slides."""
        self._run, self._lab = run, run.lab
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, steps: int | None, slide_ids: Sequence[str]) -> None:
        """Begin.

        Args:
            steps: of training; None for the recipe's.
            slide_ids: slides to look at again with the model that is in use afterwards.

        Raises:
            ConfigError: one is running, or a number of steps that makes no sense.
        """
        if steps is not None and not 1 <= steps <= _MOST_STEPS:
            raise ConfigError(f"steps {steps}: 1 to {_MOST_STEPS} needed")
        with self._lock:
            if self._is_running():
                raise ConfigError("a teaching is under way; wait for it to end")
            folder = self._lab / "taught"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / PROGRESS_NAME).unlink(missing_ok=True)
            command = [sys.executable, "-m", "muse_core.cli", "teach", "--labels", str(self._lab)]
            command += ["--nuclei", str(self._run.source), "--json"]
            for option, path in (("--slides", self._run.slides), ("--checkpoint", self._run.checkpoint)):
                command += [option, str(path)] if path is not None else []
            command += [] if steps is None else ["--set", f"steps={steps}"]
            for slide_id in slide_ids:
                command += ["--infer", slide_id]
            with (folder / "last.log").open("wb") as log:
                self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def state(self) -> dict[str, Any]:
        """`state` (idle, running, done, failed), what `muse teach` says of its progress, and why it failed."""
        folder = self._lab / "taught"
        try:
            progress = dict(json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            progress = {}
        with self._lock:
            if self._process is None:
                return {"state": "idle", "progress": progress}
            status = self._process.poll()
        if status is None:
            return {"state": "running", "progress": progress}
        if status == 0:
            return {"state": "done", "progress": progress}
        return {"state": "failed", "progress": progress, "message": _last_line(folder / "last.log")}

    def stop(self) -> None:
        """End what runs; its folder is left as a killed run leaves it."""
        with self._lock:
            if self._process is not None and self._is_running():
                self._process.terminate()
                self._process.wait(timeout=30)

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else "it ended without a word"
