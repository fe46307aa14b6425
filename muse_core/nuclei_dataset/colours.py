"""The colour of each class, the same in QuPath, in reports and in pictures."""

from collections.abc import Sequence

# Okabe and Ito's colours, told apart by colour-blind readers, those first that stand out on tissue and on paper:
# https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_DARKER = 0.6  # each further round of classes


def class_colours(class_names: Sequence[str]) -> dict[str, str]:
    """`#rrggbb` of each class, by its place among the classes; further rounds of eight are darker."""
    return {name: _darkened(_COLOURS[i % len(_COLOURS)], i // len(_COLOURS)) for i, name in enumerate(class_names)}


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers 0..255."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _darkened(colour: str, rounds: int) -> str:
    return "#" + "".join(f"{round(value * _DARKER**rounds):02X}" for value in rgb(colour))
