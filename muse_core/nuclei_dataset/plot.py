"""A picture of nuclei on their tissue for papers, drawn with Matplotlib: scale bar and legend, no axes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from shapely.geometry.base import BaseGeometry

from muse_core.errors import ConfigError
from muse_core.geometry import Box
from muse_core.nuclei_dataset.colours import class_colours
from muse_core.slide import open_slide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PX = 2000  # of the tissue's picture along its longer side
_NUCLEUS_UM = 6.4
_WIDTH_IN, _POINTS_AN_INCH = 6.0, 72.0


def plot_nuclei(
    table: pa.Table,
    area: Box | BaseGeometry,
    class_names: Sequence[str],
    slide_mpp: tuple[float, float],
    *,
    slide: Path | None = None,
    scene: int | None = None,
) -> "Figure":
    """Draw nuclei as rings in the colours of the report, over the slide's pixels where it is given.

    Args:
        table: the nuclei of the area: x_um, y_um, class_name.
        area: a box or polygon, µm.
        class_names: of the slide.
        slide_mpp: µm per level-0 px along x and y.
        slide: the slide's file; None for nuclei on white.
        scene: which of several pictures in that file; None for the largest.

    Raises:
        ConfigError: Matplotlib is not installed, or the area is empty.
        SlideReadError: the slide cannot be read.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("pictures need Matplotlib: pip install matplotlib") from None
    box = area if isinstance(area, Box) else _around(area)
    if not (box.width > 0 and box.height > 0):
        raise ConfigError("the area is empty; give a box or polygon in um with a width and a height")
    figure = Figure(figsize=(_WIDTH_IN, _WIDTH_IN * box.height / box.width + 0.4), layout="constrained")
    axes = figure.add_subplot()
    if slide is not None:
        pixels = _pixels(slide, scene, box, slide_mpp)
        axes.imshow(pixels, extent=(box.x, box.right, box.bottom, box.y), interpolation="antialiased")
    side_pt = _NUCLEUS_UM / box.width * _WIDTH_IN * _POINTS_AN_INCH
    names = np.array(table["class_name"].to_pylist())
    for name, colour in class_colours(class_names).items():
        mine = names == name
        x, y = (table[column].to_numpy()[mine] for column in ("x_um", "y_um"))
        look: dict[str, Any] = {
            "facecolors": "none" if side_pt > 3 else colour,
            "edgecolors": colour,
            "linewidths": 0.9,
        }
        axes.scatter(x, y, s=max(side_pt, 0.8) ** 2, label=f"{name.replace('_', ' ')} ({int(mine.sum()):,})", **look)
    axes.set(xlim=(box.x, box.right), ylim=(box.bottom, box.y), aspect="equal")
    axes.set_axis_off()
    _draw_scale(axes, box)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, markerscale=1)
    return figure


def _pixels(slide: Path, scene: int | None, box: Box, slide_mpp: tuple[float, float]) -> np.ndarray:  # type: ignore[type-arg]
    mpp = max(max(box.width, box.height) / _MOST_PX, max(slide_mpp))
    size = max(1, round(box.width / mpp)), max(1, round(box.height / mpp))
    # The dataset's µm/px, not the file's own: it may have been given by hand.
    with open_slide(slide, mpp_override=slide_mpp[0], scene=scene) as one:
        return one.read_region(box.x / slide_mpp[0], box.y / slide_mpp[1], *size, mpp=mpp)


def _draw_scale(axes: object, box: Box) -> None:
    """A bar of a round length, about a fifth of the width, with its length above."""
    power = 10.0 ** math.floor(math.log10(box.width / 5))
    um = next(step * power for step in (5.0, 2.0, 1.0) if step * power <= box.width / 5 * (1 + 1e-9))
    left, low = box.x + 0.03 * box.width, box.bottom - 0.04 * box.height
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
    for colour, width in (("white", 5.0), ("black", 2.5)):
        axes.plot([left, left + um], [low, low], color=colour, linewidth=width, solid_capstyle="butt")  # type: ignore[attr-defined]
    above = low - 0.02 * box.height
    plate = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    axes.text(left, above, text, fontsize=8, va="bottom", bbox=plate)  # type: ignore[attr-defined]


def _around(area: BaseGeometry) -> Box:
    left, top, right, bottom = area.bounds
    return Box(left, top, right - left, bottom - top)
