"""Learned position embeddings of a ViT, brought to another grid of tokens by DINO's rule.

Source: interpolate_pos_encoding, https://github.com/facebookresearch/dino (vision_transformer.py).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_NUDGE = 0.1  # px added to a side, so that rounding never loses the last token; moves the values by about a percent


def positions_for(positions: Tensor, grid: tuple[int, int], *, always: bool = False) -> Tensor:
    """Position embeddings for a grid of tokens.

    Args:
        positions: (1, 1 + n * n, D), the class token's first.
        grid: rows and columns of tokens.
        always: resample even where the grid is the one learned. The loader of the released MUSE weights does so, by a
            test that is never true, and thereby changes the values by some percent.

    Returns:
        (1, 1 + rows * columns, D).
    """
    side = math.isqrt(positions.shape[1] - 1)
    if grid == (side, side) and not always:
        return positions
    table = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, n*n, D) -> (1, D, n, n)
    factors = ((grid[0] + _NUDGE) / side, (grid[1] + _NUDGE) / side)
    table = functional.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)
    assert tuple(table.shape[-2:]) == grid
    return torch.cat([positions[:, :1], table.flatten(2).transpose(1, 2)], 1)
