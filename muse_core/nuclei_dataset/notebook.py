"""`muse view` inside a notebook: the same page, in a frame, served by a process of its own."""

import atexit
import html
import json
import subprocess
import sys
from pathlib import Path

from muse_core.errors import ConfigError


class NotebookView:
    """A viewer that runs until `close`, or until the notebook's kernel ends; shown by being a cell's last value."""

    def __init__(
        self, source: str, slide_id: str | None, *, slides: Path | None, labels: Path | None, height_px: int
    ) -> None:
        """Made by `NucleiDataset.view`."""
        command = [sys.executable, "-m", "muse_core.cli", "view", "--nuclei", source, "--no-browser", "--json"]
        command += ["--slide-id", slide_id] if slide_id is not None else []
        for option, path in (("--slides", slides), ("--labels", labels)):
            command += [option, str(path)] if path is not None else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline() or "{}")
        if "url" not in told:
            self.close()
            raise ConfigError(told.get("error") or "the viewer did not start; muse view says why")
        self.url = str(told["url"])
        self._height_px = height_px
        atexit.register(self.close)

    def _repr_html_(self) -> str:
        address = html.escape(self.url, quote=True)
        return f'<iframe src="{address}" width="100%" height="{self._height_px}" style="border: 0"></iframe>'

    def close(self) -> None:
        """End the server."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
