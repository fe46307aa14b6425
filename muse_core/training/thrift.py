"""What makes a training step cheaper on a CPU; what is learned, and how, stays in the loops."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from muse_core.errors import ConfigError


def freeze_depthwise(net: nn.Module) -> None:
    """Keep the kernels of depthwise convolutions: few numbers, whose gradients are a third of a step's time."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.weight.requires_grad_(False)


def early_stages(encoder: nn.Module, count: int) -> list[nn.Module]:
    """The stem and the first `count` stages of an EfficientNet of timm, frozen; the caller keeps them in eval mode.

    They work at strides 2 and 4, where pictures are largest: with them frozen a step takes two thirds of the time.

    Raises:
        ConfigError: the encoder is not laid out like one.
    """
    if not count:
        return []
    names = ("conv_stem", "bn1", "blocks")
    if not all(hasattr(encoder, name) for name in names):
        raise ConfigError(f"freeze_stages = {count}: {type(encoder).__name__} has no such stages; set it to 0")
    stem, norm, blocks = (getattr(encoder, name) for name in names)
    frozen = [stem, norm, *list(blocks)[:count]]
    for module in frozen:
        module.requires_grad_(False).eval()
    return frozen


def depthwise_in_float32(net: nn.Module, *, frozen: Sequence[nn.Module] = ()) -> None:
    """Take depthwise convolutions that are strided or 5 px wide out of autocast on a CPU.

    Their backward pass in bfloat16 is 3 to 200 times slower than in float32; of others it is about as fast.

    Frozen modules, which have no backward pass, stay as they are.
    Copies of the network made afterwards would still run on its weights: make them first.
    """
    without = {module for stage in frozen for module in stage.modules()}
    for module in net.modules():
        if not isinstance(module, nn.Conv2d) or module.groups == 1 or module in without:
            continue
        if module.stride != (1, 1) or max(module.kernel_size) > 3:
            module.forward = _outside_autocast(module.forward)  # type: ignore[method-assign, assignment]


def _outside_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_float32(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    return in_float32
