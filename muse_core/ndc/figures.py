"""Charts of a run and of what a model gets right: curves and confusions."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from muse_core.labels.scores import MAIN_RULE, RADIUS_UM, JudgedPatch
from muse_core.machine.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from muse_core.ndc.history import History

logger = logging.getLogger(__name__)


def draw_curves(history: "History", path: Path, *, title: str) -> None:
    """Parts of the loss and validation F1 over steps; left out, with a line in the log, without matplotlib."""
    figure = _figure((9.0, 4.0), path)
    if figure is None:
        return
    left, right = figure.subplots(1, 2)
    losses = np.array(history.losses)
    window = max(1, len(losses) // 60)
    for column, name in enumerate(("total", "L_reg / 10", "L_type", "L_cons", "dense")):
        values = losses[:, column] / (10 if column == 1 else 1)
        if values.any():
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            left.plot(np.arange(len(smooth)) + window, smooth, label=name)
    left.set(xlabel="step", ylabel="training loss", title=title)
    left.legend()
    steps = [one.step for one in history.validations]
    right.plot(steps, [one.detection_f1 for one in history.validations], "o-", label="detection")
    right.plot(steps, [one.mean_class_f1 for one in history.validations], "o-", label="mean over classes")
    right.set(xlabel="step", ylabel=f"validation F1, {MAIN_RULE} rule, {RADIUS_UM:g} µm")
    right.set(xlim=left.get_xlim(), ylim=(min(0.5, *right.get_ylim()), 1.0))
    right.legend(loc="lower right")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def confusion(patches: Sequence[JudgedPatch], n_classes: int) -> NDArray[np.int64]:
    """Pairs of all nuclei by class: (C + 1, C + 1) rows labelled, columns predicted; the last ones: nothing there."""
    table = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    for patch in patches:
        pairs = patch.matched("dpa", RADIUS_UM / patch.mpp).pairs
        np.add.at(table, (patch.true_ids[pairs[:, 1]], patch.ids[pairs[:, 0]]), 1)
        np.add.at(table[-1], np.delete(patch.ids, pairs[:, 0]), 1)
        np.add.at(table[:, -1], np.delete(patch.true_ids, pairs[:, 1]), 1)
    return table


def draw_confusion(patches: Sequence[JudgedPatch], class_names: Sequence[str], path: Path) -> None:
    """The confusion table as a picture, each row as shares of its labels."""
    figure = _figure((6.0, 5.0), path)
    if figure is None:
        return
    table = confusion(patches, len(class_names))
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    share[-1] = 0  # of points without a label there is no whole to be a share of
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        nothing = row == column == len(class_names)
        text = "" if nothing else f"{count:,}" + (f"\n{share[row, column]:.0%}" if row < len(class_names) else "")
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    names = [name.replace("_", "\n") for name in class_names]
    axes.set_xticks(range(len(names) + 1), [*names, "missed"])
    axes.set_yticks(range(len(names) + 1), [*names, "no label"])
    axes.set(xlabel="predicted", ylabel="labelled", title=f"Nuclei within {RADIUS_UM:g} µm")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _figure(size: tuple[float, float], path: Path) -> "Figure | None":
    """A figure of matplotlib, or None without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("%s: not drawn, as matplotlib is not installed (pip install 'muse-nuclei[docs]')", path)
        return None
    return Figure(figsize=size, layout="constrained")
