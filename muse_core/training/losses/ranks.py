"""Sums over all training processes; in a lone process each is the value itself."""

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def summed_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum over all processes, each of which must call this; `values` itself stays as it is."""
    if world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total
