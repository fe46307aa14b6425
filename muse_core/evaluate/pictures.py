"""Patches with a mark on each nucleus that says how it came out: found, confused, false or missed."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import ConfigError
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM, JudgedPatch, counts_of, score_counts
from muse_core.machine.files import whole_file

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Colour = tuple[int, int, int]
Spot = tuple[int, int]  # x, y, px of a picture

_COLOURS: tuple[Colour, ...] = (
    (0, 220, 255),
    (90, 255, 60),
    (255, 225, 0),
    (255, 140, 0),
    (255, 255, 255),
    (190, 160, 255),
)  # a class; none of them a colour of H&E
_DARK: Colour = (0, 0, 0)
_ZOOM = 3  # picture px a patch px
_LINE_PX, _GAP_PX = 28, 16
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.55


def draw_patches(
    patches: Sequence[JudgedPatch],
    images: Sequence[Picture],
    class_names: Sequence[str],
    path: Path,
    *,
    count: int = 4,
) -> None:
    """The patches of the lowest mean class F1, each nucleus marked by how it came out.

    A circle in the colour of its class is right; within a square in the colour of the label it is confused. A cross in
    the colour of its class is false, a square alone in the colour of the label is missed.

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
    grid = _grid([_marked(patches[index], images[index], f1[index]) for index in worst])
    picture = np.vstack([_legend(class_names, grid.shape[1]), grid])
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _marked(patch: JudgedPatch, image: Picture, f1: float) -> Picture:
    """One patch, enlarged, with its marks and two lines of words above."""
    picture = np.asarray(cv2.resize(image, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC), np.uint8)
    pairs = patch.matched("dpa", RADIUS_UM / patch.mpp).pairs
    lone_preds = np.delete(np.arange(len(patch.xy)), pairs[:, 0])
    lone_trues = np.delete(np.arange(len(patch.true_xy)), pairs[:, 1])
    right = patch.ids[pairs[:, 0]] == patch.true_ids[pairs[:, 1]]
    for (pred, true), is_right in zip(pairs, right, strict=True):
        spot, colour = _spot(patch.xy[pred]), _colour(patch.ids[pred])
        if is_right:
            _circle(picture, spot, colour)
        else:
            _confused(picture, spot, colour, _colour(patch.true_ids[true]))
    for row in lone_preds:
        _cross(picture, _spot(patch.xy[row]), _colour(patch.ids[row]))
    for row in lone_trues:
        _square(picture, _spot(patch.true_xy[row]), _colour(patch.true_ids[row]))
    n_right = int(right.sum())
    words = f"F1 {f1:.3f}: right {n_right}, confused {len(pairs) - n_right}, "
    words += f"false {len(lone_preds)}, missed {len(lone_trues)}"
    head = _blank(2 * _LINE_PX, picture.shape[1])
    _write(head, patch.name, (4, 19))
    _write(head, words, (4, _LINE_PX + 19))
    return np.vstack([head, picture])


def _grid(pictures: Sequence[Picture]) -> Picture:
    """Pictures of any size, as near to a square of them as can be."""
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = (max(one.shape[axis] for one in pictures) + _GAP_PX for axis in (0, 1))
    grid = _blank(height * math.ceil(len(pictures) / columns), width * columns)
    for index, one in enumerate(pictures):
        row, column = divmod(index, columns)
        grid[row * height :, column * width :][: one.shape[0], : one.shape[1]] = one
    return grid


def _legend(class_names: Sequence[str], width: int) -> Picture:
    """The classes' colours and what the marks mean, in as many lines as the width asks for."""
    first, second = _colour(0), _colour(1)
    items: list[tuple[str, Callable[[Picture, Spot], None]]] = [
        *((name, partial(_disc, colour=_colour(index))) for index, name in enumerate(class_names)),
        ("right", partial(_circle, colour=first)),
        ("confused: the square is the label", partial(_confused, colour=first, label=second)),
        ("false", partial(_cross, colour=first)),
        ("missed", partial(_square, colour=first)),
    ]
    places, x, line = [], 4, 0
    for words, _ in items:
        length = 34 + cv2.getTextSize(words, _FONT, _FONT_SCALE, 1)[0][0]
        if x > 4 and x + length > width:
            x, line = 4, line + 1
        places.append((x, line))
        x += length + 20
    legend = _blank((line + 1) * _LINE_PX + 6, width)
    for (words, draw), (x, line) in zip(items, places, strict=True):
        draw(legend, (x + 14, line * _LINE_PX + 15))
        _write(legend, words, (x + 30, line * _LINE_PX + 20))
    return legend


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), 255, np.uint8)


def _write(picture: Picture, words: str, at: Spot) -> None:
    cv2.putText(picture, words, at, _FONT, _FONT_SCALE, _DARK, 1, cv2.LINE_AA)


def _colour(class_id: int) -> Colour:
    return _COLOURS[int(class_id) % len(_COLOURS)]


def _spot(xy: NDArray[np.floating]) -> Spot:
    return round(float(xy[0]) * _ZOOM), round(float(xy[1]) * _ZOOM)


def _circle(picture: Picture, at: Spot, colour: Colour) -> None:
    for ink, thickness in ((_DARK, 4), (colour, 2)):  # a dark rim keeps marks visible on any tissue
        cv2.circle(picture, at, 6, ink, thickness, cv2.LINE_AA)


def _disc(picture: Picture, at: Spot, colour: Colour) -> None:
    cv2.circle(picture, at, 8, _DARK, -1, cv2.LINE_AA)
    cv2.circle(picture, at, 7, colour, -1, cv2.LINE_AA)


def _square(picture: Picture, at: Spot, colour: Colour) -> None:
    first, last = (at[0] - 10, at[1] - 10), (at[0] + 10, at[1] + 10)
    for ink, thickness in ((_DARK, 4), (colour, 2)):
        cv2.rectangle(picture, first, last, ink, thickness, cv2.LINE_AA)


def _cross(picture: Picture, at: Spot, colour: Colour) -> None:
    for ink, thickness in ((_DARK, 5), (colour, 2)):
        cv2.drawMarker(picture, at, ink, cv2.MARKER_TILTED_CROSS, 13, thickness, cv2.LINE_AA)


def _confused(picture: Picture, at: Spot, colour: Colour, label: Colour) -> None:
    _circle(picture, at, colour)
    _square(picture, at, label)
