"""Convolutions that apply the activation after them themselves, on a CPU: one pass over memory less for each.

It is oneDNN's doing, by the operator that torch's own compiler puts in their place; where the operator cannot run,
networks stay as they are.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from muse_core.models.detector import Depthwise

_Fusable = tuple[str, list[float]]  # oneDNN's name of an activation, and its numbers


class ConvolutionActivation(nn.Module):
    """A convolution and its activation in one; not to be trained."""

    def __init__(self, conv: nn.Conv2d, activation: _Fusable) -> None:
        super().__init__()
        self.conv = conv
        self.name, self.numbers = activation

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution, then the activation."""
        return _convolution_activation(self.conv, x, self.name, self.numbers)


class ActivationOfNorm(nn.Sequential):
    """The activation that a batch norm brought with it, left where the norm was before it was folded away."""


def fuse_activations(net: nn.Module) -> None:
    """Put each ReLU and ReLU6 that certainly follows a convolution into it, in place.

    Certain are neighbours in an `nn.Sequential`, and activations that norms left behind: other modules may add a
    shortcut between a convolution and the activation named after it, as those of ResNets do. The network is in eval
    mode on a CPU, its norms folded.
    """
    dtype = next(net.parameters()).dtype
    if not _works(dtype):
        return
    for parent in list(net.modules()):
        children = [(name, child) for name, child in parent.named_children() if not isinstance(child, nn.Identity)]
        for (first_name, first), (second_name, second) in pairwise(children):
            activation = _fusable(second, in_sequence=isinstance(parent, nn.Sequential))
            if activation is not None and isinstance(first, nn.Conv2d) and _is_plain(first):
                setattr(parent, first_name, ConvolutionActivation(first, activation))
                setattr(parent, second_name, nn.Identity())


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it does nothing besides, such as padding its input first."""
    own_way = type(conv).forward is not nn.Conv2d.forward and not isinstance(conv, Depthwise)
    return not own_way and not isinstance(conv.padding, str)


def _fusable(module: nn.Module, *, in_sequence: bool) -> _Fusable | None:
    if isinstance(module, ActivationOfNorm):
        return _fusable(module[0], in_sequence=True)
    if not in_sequence:
        return None
    if isinstance(module, nn.ReLU6):
        return "hardtanh", [0.0, 6.0]
    return ("relu", []) if isinstance(module, nn.ReLU) else None


def _convolution_activation(conv: nn.Conv2d, x: Tensor, name: str, numbers: Sequence[float]) -> Tensor:
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, name, numbers, ""
    )
    return out


def _works(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operator and this processor runs it in the type."""
    try:
        conv = nn.Conv2d(8, 8, 1).to(dtype).requires_grad_(False)
        _convolution_activation(conv, torch.zeros(1, 8, 4, 4, dtype=dtype), "relu", [])
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
