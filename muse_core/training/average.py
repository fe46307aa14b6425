"""The running average of a network's weights, which is what training keeps."""

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, *, step: int, steps: int) -> None:
    """Move an average towards a network, in place; what is not a floating number is copied.

    Args:
        average: a copy of the network.
        net: the network, after its step number `step`.
        step: counted from 1; at first the average follows closely, as it has little to remember.
        steps: that the average is over, about.
    """
    keep = min(1 - 1 / steps, step / (step + 9))
    for kept, now in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(now, 1 - keep)
        else:
            kept.copy_(now)
