import math

import pytest
import torch

from muse_core.models.position import positions_for


def ramp(side: int) -> torch.Tensor:
    """Positions that say their own column and row; the class token says -1."""
    rows, columns = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    return torch.cat([torch.full((1, 1, 2), -1.0), torch.stack([columns, rows], -1).view(1, side * side, 2)], 1)


def test_the_learned_grid_is_left_alone():
    positions = ramp(14)
    assert positions_for(positions, (14, 14)) is positions


def cubic_read(position: float) -> float:
    """What cubic convolution with a = -0.75 reads off the numbers 0, 1, 2, ... at a position between them.

    Source: Keys 1981; the constant is PyTorch's.
    """
    first, a, read = math.floor(position) - 1, -0.75, 0.0
    for index in range(first, first + 4):
        d = abs(position - index)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        read += index * (near if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4))
    return read


def test_another_grid_reads_between_the_learned_ones():
    found = positions_for(ramp(14), (7, 32))
    assert found.shape == (1, 1 + 7 * 32, 2)
    assert found[0, 0].tolist() == [-1, -1]
    column, row = found[0, 1:].view(7, 32, 2)[3, 20].tolist()
    # DINO's rule: a step between tokens is side / (tokens + 0.1), from half-pixel centres.
    assert column == pytest.approx(cubic_read(20.5 * 14 / 32.1 - 0.5), abs=1e-4)
    assert row == pytest.approx(cubic_read(3.5 * 14 / 7.1 - 0.5), abs=1e-4)


def test_the_released_loader_moves_even_the_learned_grid():
    found = positions_for(ramp(14), (14, 14), always=True)
    assert found.shape == (1, 197, 2)
    assert float(found[0, 1 + 14 * 6 + 9, 0]) == pytest.approx(cubic_read(9.5 * 14 / 14.1 - 0.5), abs=1e-4)
    noise = torch.randn(1, 197, 64, generator=torch.Generator().manual_seed(0))
    change = (positions_for(noise, (14, 14), always=True) - noise)[:, 1:].norm() / noise[:, 1:].norm()
    assert 0.05 < change < 0.15  # on white noise, 9 % were seen
