"""The record of a run: one JSON line a logged step, the same for TensorBoard, and a picture of the curves."""

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from muse_core.machine.files import output_errors, whole_file

logger = logging.getLogger(__name__)

_PANELS = (
    ("loss", ("loss_image", "loss_nucleus")),
    ("teacher entropy, nats", ("entropy_image", "entropy_nucleus")),
    ("prototypes used", ("used_image", "used_nucleus")),
    ("spread of features", ("spread_image", "spread_nucleus")),
    ("learning rate", ("learning_rate",)),
    ("ROIs/s", ("rois_per_s",)),
    ("norm of the gradients", ("gradient_norm",)),
    ("nearest neighbours right, %", ("probe_knn",)),
)


class MetricsLog:
    """Appends what is measured; of a resumed run, steps after the checkpoint are dropped and measured anew.

    Args:
        path: the JSON lines.
        tensorboard: folder for TensorBoard's event files; without the package there are none, with a line in the log.
        step: the checkpoint's, 0 for a new run.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path, tensorboard: Path, *, step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        with whole_file(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._events = _open_tensorboard(tensorboard, step)

    def append(self, row: dict[str, Any]) -> None:
        """Write one step's numbers; `step` is among them.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        with output_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
            self._events.append(row["step"], numbers)


class _EventFile:
    """TensorBoard's file, written here and now: its own writer does it in a thread, whose errors end as tracebacks.

    Args:
        folder: gets the file.
        purged: the step from which on TensorBoard forgets what earlier files of the folder say; None for nothing.

    Raises:
        ImportError: there is no TensorBoard.
        OutputError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, purged: int | None) -> None:
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._write({"file_version": "brain.Event:2"})
        if purged is not None:
            self._write({"step": purged, "session_log": {"status": "START"}})

    def append(self, step: int, numbers: dict[str, float]) -> None:
        """Add a step's numbers by their names."""
        values = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
        self._write({"step": step, "summary": {"value": values}})

    def _write(self, fields: dict[str, Any]) -> None:
        """Add an event with these fields of its protocol buffer."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a record, in order; none where there is no file. A line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.info("%s: a line that was cut short is left out", path)
    return rows


def _open_tensorboard(folder: Path, step: int) -> _EventFile | None:
    try:
        return _EventFile(folder, purged=step + 1 if step else None)
    except ImportError:
        logger.warning("%s: not written, as tensorboard is not installed (pip install 'muse-nuclei[train]')", folder)
        return None


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw a record as one PNG; left out, with a line in the log, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("%s: not drawn, as matplotlib is not installed (pip install 'muse-nuclei[docs]')", path)
        return
    rows = read_metrics(metrics)
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 4).flat, _PANELS, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.rpartition("_")[2], linewidth=1)
        axes.set(title=title, xlabel="step")
        if len(names) > 1 and axes.lines:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
