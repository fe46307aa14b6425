"""Pictures of a run and of what a model gets right: curves, confusions, and patches with their marks."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import ConfigError
from muse_core.files import whole_file
from muse_core.ndc.scores import MAIN_RULE, RADIUS_UM, JudgedPatch, counts_of, score_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from muse_core.ndc.train import History

logger = logging.getLogger(__name__)

_COLOURS = (
    (30, 144, 255),
    (220, 40, 60),
    (240, 170, 0),
    (150, 60, 200),
    (0, 160, 120),
    (255, 105, 180),
)  # RGB, a class
_FALSE, _MISSED = (0, 0, 0), (255, 255, 255)
_ZOOM = 3  # picture px a patch px
_LINE_PX = 26


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


def draw_patches(
    patches: Sequence[JudgedPatch],
    images: Sequence[NDArray[np.uint8]],
    class_names: Sequence[str],
    path: Path,
    *,
    count: int = 4,
) -> None:
    """The patches of the lowest mean class F1 side by side, each nucleus marked by how it came out.

    A circle in the colour of its class is right; a circle with a square around it in the colour of the label is
    confused; a black cross is false; a white square with a dot in the label's colour is missed.

    Args:
        patches: labels and predictions.
        images: (H, W, 3) uint8 of each.
        class_names: for the legend.
        path: a PNG file to write.
        count: how many patches.

    Raises:
        ConfigError: there is nothing to draw.
        OutputError: the file cannot be written.
    """
    if not patches:
        raise ConfigError(f"{path}: no patch to draw; the split is empty")
    f1 = [score_counts(counts_of([one], len(class_names), MAIN_RULE), MAIN_RULE).mean_class_f1 for one in patches]
    worst = np.argsort(f1, kind="stable")[:count]
    pictures = [_marked(patches[index], images[index], f1[index]) for index in worst]
    height = max(picture.shape[0] for picture in pictures)
    white = {"borderType": cv2.BORDER_CONSTANT, "value": (255, 255, 255)}
    row = np.hstack([cv2.copyMakeBorder(one, 0, height - one.shape[0], 0, 12, **white) for one in pictures])  # type: ignore[call-overload]
    picture = np.vstack([_legend(class_names, row.shape[1]), row])
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _marked(patch: JudgedPatch, image: NDArray[np.uint8], f1: float) -> NDArray[np.uint8]:
    """One patch, enlarged, with its marks and a line of counts above."""
    picture = np.asarray(cv2.resize(image, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC), np.uint8)
    pairs = patch.matched("dpa", RADIUS_UM / patch.mpp).pairs
    for pred, true in pairs:
        right = patch.ids[pred] == patch.true_ids[true]
        _circle(picture, patch.xy[pred], _colour(patch.ids[pred]))
        if not right:
            _square(picture, patch.xy[pred], 9, _colour(patch.true_ids[true]))
    for row in np.delete(np.arange(len(patch.xy)), pairs[:, 0]):
        _cross(picture, patch.xy[row], _FALSE)
    for row in np.delete(np.arange(len(patch.true_xy)), pairs[:, 1]):
        _square(picture, patch.true_xy[row], 7, _MISSED)
        cv2.circle(picture, _spot(patch.true_xy[row]), 3, _colour(patch.true_ids[row]), -1, cv2.LINE_AA)
    right = int((patch.ids[pairs[:, 0]] == patch.true_ids[pairs[:, 1]]).sum())
    counts = (right, len(pairs) - right, len(patch.xy) - len(pairs), len(patch.true_xy) - len(pairs))
    text = f"mean class F1 {f1:.3f}  right {counts[0]}  confused {counts[1]}  false {counts[2]}  missed {counts[3]}"
    picture = np.asarray(
        cv2.copyMakeBorder(picture, 2 * _LINE_PX, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255)), np.uint8
    )
    for line, words in enumerate((patch.name[:70], text)):
        _write(picture, words, (8, (line + 1) * _LINE_PX - 7))
    return picture


def _legend(class_names: Sequence[str], width: int) -> NDArray[np.uint8]:
    """What the marks mean, and the classes' colours."""
    legend = np.full((2 * _LINE_PX, width, 3), 255, np.uint8)
    _write(legend, "circle: right; circle in a square: confused, the square is the label; ", (8, 19))
    _write(legend, "black cross: false; white square: missed", (640, 19))
    for index, name in enumerate(class_names):
        x = 8 + 260 * index
        cv2.circle(legend, (x + 8, _LINE_PX + 12), 7, _colour(index), 3, cv2.LINE_AA)
        _write(legend, name, (x + 24, _LINE_PX + 18))
    return legend


def _write(picture: NDArray[np.uint8], words: str, at: tuple[int, int]) -> None:
    cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)


def _colour(class_id: int) -> tuple[int, int, int]:
    return _COLOURS[int(class_id) % len(_COLOURS)]


def _spot(xy: NDArray[np.floating]) -> tuple[int, int]:
    return round(float(xy[0]) * _ZOOM), round(float(xy[1]) * _ZOOM)


def _circle(picture: NDArray[np.uint8], xy: NDArray[np.floating], colour: tuple[int, int, int]) -> None:
    cv2.circle(picture, _spot(xy), 6, colour, 2, cv2.LINE_AA)


def _square(picture: NDArray[np.uint8], xy: NDArray[np.floating], reach: int, colour: tuple[int, int, int]) -> None:
    x, y = _spot(xy)
    cv2.rectangle(picture, (x - reach, y - reach), (x + reach, y + reach), colour, 2, cv2.LINE_AA)


def _cross(picture: NDArray[np.uint8], xy: NDArray[np.floating], colour: tuple[int, int, int]) -> None:
    cv2.drawMarker(picture, _spot(xy), colour, cv2.MARKER_TILTED_CROSS, 12, 2, cv2.LINE_AA)


def _figure(size: tuple[float, float], path: Path) -> "Figure | None":
    """A figure of matplotlib, or None without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("%s: not drawn, as matplotlib is not installed (pip install 'muse-nuclei[docs]')", path)
        return None
    return Figure(figsize=size, layout="constrained")
