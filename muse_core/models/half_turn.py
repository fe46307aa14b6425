"""Networks of TensorFlow run by half a turn, which spares the copies that their padding costs.

They pad a strided convolution after the image only, which PyTorch's convolutions cannot do by themselves, so that timm
copies each such layer's input into a larger one. Seen by half a turn the same padding comes before the image, and that
is what a symmetric padding of half the kernel amounts to where sides are even: what it adds after the image is never
read. So with every kernel turned, the turned image gives the turned answer.
"""

from timm.layers import Conv2dSame
from torch import Tensor, nn


def pads_after(net: nn.Module) -> bool:
    """Whether a network has such convolutions, and `turn_kernels` something to gain."""
    return any(isinstance(module, Conv2dSame) and module.stride != (1, 1) for module in net.modules())


def turn_kernels(net: nn.Module) -> None:
    """Turn every kernel of a network of convolutions, in place, for images whose sides are even at each stride."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(module, name, _turned_and_padded(child))
            elif isinstance(child, nn.Conv2d):
                child.weight = _turned(child.weight)
            elif isinstance(child, nn.PixelShuffle):
                setattr(module, name, nn.Sequential(_ReversedSubpixels(child.upscale_factor), child))


def by_half_a_turn(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) turned; turned twice they are as before."""
    return maps.flip((-2, -1))


def _turned(kernel: Tensor) -> nn.Parameter:
    return nn.Parameter(by_half_a_turn(kernel.detach()), requires_grad=False)


def _turned_and_padded(conv: Conv2dSame) -> nn.Conv2d:
    height, width = conv.kernel_size
    assert height % 2 == width % 2 == 1
    turned = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        conv.stride,  # type: ignore[arg-type]
        (height // 2, width // 2),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    turned.weight = _turned(conv.weight)
    if conv.bias is not None:
        turned.bias = conv.bias
    return turned


class _ReversedSubpixels(nn.Module):
    """The channels of each pixel's subpixels in reverse: a pixel by half a turn."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.count = factor * factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C * count, h, w) to the same."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, channels // self.count, self.count, height, width).flip(2).reshape(x.shape)
