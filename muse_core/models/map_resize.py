"""Feature maps brought from one stride to another."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Alignment = Literal["corners", "half_pixel", "even"]


def resized(x: Tensor, size: tuple[int, int], *, alignment: Alignment) -> Tensor:
    """A map resampled bilinearly to `size`; a map of that size already is returned as it is.

    Args:
        x: (B, C, h, w).
        size: height and width to come out; for `even`, each a power of two of what goes in, less what is cropped.
        alignment: which pixels lie on one another.
            `corners`: the centres of the border pixels do; what the released weights were trained with.
            `half_pixel`: the borders do, as the tokens of a ViT and the pixels of a picture lie.
            `even`: pixel i of the coarse map lies on pixel 2 i (4 i, 8 i) of the finer one, as the maps of a network of
            symmetrically padded, strided convolutions lie. A map moved by a pixel moves the result by two.

    Returns:
        (B, C, *size).
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if alignment != "even":
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=alignment == "corners")
    height, width = x.shape[-2:]
    ratio_y, ratio_x = _power_of_two(size[0] / height), _power_of_two(size[1] / width)
    # Between n + 1 and r n + 1 pixels with aligned corners, pixel j reads from j / r: what is wanted.
    padded = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    larger = (height * ratio_y + 1, width * ratio_x + 1)
    fine = functional.interpolate(padded, size=larger, mode="bilinear", align_corners=True)
    return fine[..., : size[0], : size[1]]


def moved(x: Tensor, share: float) -> Tensor:
    """A map (B, C, h, w) read 0 <= share <= 1 pixels further right and down, bilinearly; the border goes on outside."""
    x = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    x = torch.lerp(x[..., :-1], x[..., 1:], share)
    return torch.lerp(x[..., :-1, :], x[..., 1:, :], share)


def _power_of_two(ratio: float) -> int:
    """The smallest power of two that is not below a ratio: a side of 52 px has 7 px at an eighth, 52 / 7 gives 8."""
    return 1 << max(0, math.ceil(math.log2(ratio)))
