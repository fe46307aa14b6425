"""Numbers of the charts: where bars and dots stand. The templates draw them as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """A part of a bar that is 100 wide.

    Attributes:
        name: the class.
        colour: `#rrggbb`.
        left: where it begins.
        width: how wide it is.
    """

    name: str
    colour: str
    left: float
    width: float


def segments(shares: Sequence[tuple[str, str, float]]) -> list[Segment]:
    """A stacked bar of (name, colour, share 0..1)."""
    left, found = 0.0, []
    for name, colour, share in shares:
        found.append(Segment(name, colour, left, 100 * share))
        left += 100 * share
    return found


def bars(histogram: NDArray[np.int64]) -> list[float]:
    """Heights 0..100 of a histogram's bars, the tallest 100."""
    most = max(1, int(histogram.max(initial=0)))
    return [100 * float(count) / most for count in histogram]


@dataclass(frozen=True)
class Strip:
    """One class's dots, one a slide, on an axis from 0 to 100.

    Attributes:
        name: the class.
        colour: `#rrggbb`.
        dots: (place, slide, value) of each slide.
        median: place of the median.
    """

    name: str
    colour: str
    dots: list[tuple[float, str, float]]
    median: float


def strips(
    values: dict[str, list[tuple[str, float]]], colours: dict[str, str]
) -> tuple[list[Strip], list[tuple[float, float]]]:
    """A strip a class of (slide, value), on one axis, and the axis's ticks as (place, value)."""
    most = max((value for of_class in values.values() for _, value in of_class), default=0.0)
    step = _round_step(most / 5)
    top = max(step, step * np.ceil(most / step))
    found = []
    for name, of_class in values.items():
        dots = [(100 * value / top, slide, value) for slide, value in of_class]
        median = float(np.median([value for _, value in of_class])) if of_class else 0.0
        found.append(Strip(name, colours[name], dots, 100 * median / top))
    ticks = [(100 * tick / top, float(tick)) for tick in np.arange(0, top + step / 2, step)]
    return found, ticks


def _round_step(length: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... not below a length."""
    if length <= 1:
        return 1.0
    power = 10.0 ** np.floor(np.log10(length))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= length * (1 - 1e-9)))
