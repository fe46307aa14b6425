"""Encoders from timm, cut to what the MUSE decoder takes: four levels of features and one feature of the whole image.

Each holds timm's network as `encoder`, under timm's own names of parameters: those of the DINO ViT and of the released
MUSE weights.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import httpx
import timm
import torch
from timm.layers import Conv2dSame, Format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from muse_core.errors import ConfigError
from muse_core.models.decoder import STRIDES
from muse_core.models.map_resize import Alignment
from muse_core.models.position import positions_for

TimmNet = Any  # a network of timm, which has no types


class EncoderOutput(NamedTuple):
    """What a decoder and an image-level loss take.

    Attributes:
        levels: four maps (B, C_i, h_i, w_i), finest or earliest first.
        image: (B, C), the class token, or the last level's mean where there is none.
    """

    levels: list[Tensor]
    image: Tensor


class VitEncoder(nn.Module):
    """The ViT of DINO: learned positions, a class token, no registers; tapped at four depths.

    Every tap goes through the network's one final norm, without its class token.

    Args:
        net: a plain ViT of timm without classifier.
    """

    alignment: Alignment = "half_pixel"
    on_one_grid = True
    last_shift_px = 0.0

    def __init__(self, net: TimmNet) -> None:
        super().__init__()
        self.encoder: TimmNet = net
        self.side_multiple = self.last_stride = net.patch_embed.patch_size[0]
        self.taps = _tapped(len(net.blocks))
        self.level_channels = (net.embed_dim,) * len(self.taps)
        self.image_channels = net.embed_dim

    def resample_positions(self, image_px: int, *, always: bool = False) -> None:
        """Bring the learned positions to images of another side, once and for all; `always` as in `positions_for`."""
        side = image_px // self.side_multiple
        with torch.no_grad():
            self.encoder.pos_embed = nn.Parameter(positions_for(self.encoder.pos_embed, (side, side), always=always))

    def forward(self, images: Tensor) -> EncoderOutput:
        """(B, 3, H, W) to levels (B, D, H / patch, W / patch) and the class token (B, D)."""
        net = self.encoder
        tokens = net.patch_embed.proj(images)
        height, width = tokens.shape[-2:]
        tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h*w, D)
        tokens = torch.cat([net.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = tokens + positions_for(net.pos_embed, (height, width))
        levels = []
        for depth, block in enumerate(net.blocks):
            tokens = block(tokens)
            if depth in self.taps:
                normed = net.norm(tokens)
                # (B, 1 + h*w, D) -> (B, D, h, w), channels last in memory, without a copy
                levels.append(normed[:, 1:].unflatten(1, (height, width)).permute(0, 3, 1, 2))
        return EncoderOutput(levels, normed[:, 0])


class TokenEncoder(nn.Module):
    """Any other transformer of timm whose blocks all work on one grid of tokens: registers, rotary positions, ..."""

    alignment: Alignment = "half_pixel"
    on_one_grid = True
    last_shift_px = 0.0

    def __init__(self, net: TimmNet) -> None:
        super().__init__()
        self.encoder: TimmNet = net
        self.side_multiple = self.last_stride = int(self.encoder.patch_embed.patch_size[0])
        self.taps = _tapped(len(self.encoder.blocks))
        self.image_channels = int(self.encoder.embed_dim)
        self.level_channels = (self.image_channels,) * len(self.taps)

    def forward(self, images: Tensor) -> EncoderOutput:
        """(B, 3, H, W) to levels (B, D, H / patch, W / patch) and the class token, or the mean of the last, (B, D)."""
        last, levels = self.encoder.forward_intermediates(images, indices=list(self.taps), norm=True)
        has_class_token = getattr(self.encoder, "cls_token", None) is not None
        return EncoderOutput(list(levels), last[:, 0] if has_class_token else levels[-1].mean((2, 3)))


class ConvEncoder(nn.Module):
    """A convolutional network of timm, cut to its features at strides 4, 8, 16 and 32.

    A symmetrically padded convolution of stride 2 puts the centre of its pixel i at 2 i + 0.5 of its input, where 2 i +
    1 would be the middle of the input's pixels 2 i and 2 i + 1; over a network that adds up. With `centred`, the first
    convolution is padded by one pixel less before the image, so that map pixel j at stride 4 lies at 4 j + 1.5 px,
    half a pixel from the middle, and those of coarser levels at 8 j + 1.5 and so on: aligned as `even` says.
    `last_shift_px` is how far the last level's pixels then lie from the middle of theirs.

    Networks of TensorFlow pad such a convolution after the image only, which puts pixel i at 2 i + 1.5. What their
    features say is nevertheless best read at the middle, 2 i + 1, as if the kernels had learned to look back: nearest
    neighbours of BRCA-M2C's nuclei by ImageNet features of EfficientNet-Lite0 are right in 75.8 % there, 73.6 % at the
    geometric centre. They are left as they are and aligned as `half_pixel` says.

    Args:
        net: made by timm with features_only.
        centred: see above; off where the network must work exactly as published.
    """

    on_one_grid = False
    side_multiple = 4
    last_stride = 32

    def __init__(self, net: TimmNet, *, centred: bool) -> None:
        super().__init__()
        self.encoder: TimmNet = net
        self.level_channels = tuple(int(channels) for channels in self.encoder.feature_info.channels())
        self.image_channels = self.level_channels[-1]
        self.channels_last = getattr(net, "output_fmt", None) == Format.NHWC
        stem = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        middle = isinstance(stem, Conv2dSame) or stem.kernel_size == stem.stride
        self.alignment: Alignment = "half_pixel" if middle else "even"
        self.padding: tuple[int, ...] = ()
        if centred and self.alignment == "even" and isinstance(stem.padding, tuple) and stem.padding[0] > 0:
            before, after = stem.padding[0] - 1, stem.padding[0]  # in this order for left, right, top and bottom
            self.padding, stem.padding = (before, after, before, after), (0, 0)
        centre_px = 1.5 if self.padding else 0.5
        self.last_shift_px = self.last_stride / 2 - centre_px if self.alignment == "even" else 0.0

    def forward(self, images: Tensor) -> EncoderOutput:
        """(B, 3, H, W) to levels (B, C_i, H / s, W / s) and the last one's mean (B, C_4)."""
        if self.padding:
            images = functional.pad(images, self.padding)
        levels = list(self.encoder(images))
        if self.channels_last:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return EncoderOutput(levels, levels[-1].mean((2, 3)))


Encoder = VitEncoder | TokenEncoder | ConvEncoder


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is built.

    Attributes:
        image_px: side that a ViT's learned positions are for; other sizes interpolate them.
        drop_path: stochastic depth of the last block, 0..1; the blocks before it have proportionally less.
        centred: as `ConvEncoder` says.
        pretrained: start from the weights that timm has for the name, downloaded where they are not at hand.
    """

    image_px: int = 224
    drop_path: float = 0.0
    centred: bool = True
    pretrained: bool = False


def encoder_of(name: str, options: EncoderOptions) -> Encoder:
    """The encoder around any backbone of timm.

    Raises:
        ConfigError: timm has no such network, its weights cannot be had, or it has no features at strides 4 to 32.
    """
    if not timm.is_model(name):
        raise ConfigError(
            f"preset {name!r}: unknown; give nano, vit-s16, vit-b16, resnet50 or the name of a timm model"
        )
    # Networks without stochastic depth don't know the argument.
    common: dict[str, Any] = {"drop_path_rate": options.drop_path} if options.drop_path else {}
    try:
        indices = _level_indices(name)
        if indices is None:
            net = _made(name, options, num_classes=0, img_size=options.image_px, dynamic_img_size=True, **common)
            return VitEncoder(net) if _is_plain(net) else TokenEncoder(net)
        net = _made(name, options, features_only=True, out_indices=indices, **common)
        return ConvEncoder(net, centred=options.centred)
    except (RuntimeError, TypeError, AttributeError, OSError, httpx.HTTPError) as error:
        raise ConfigError(f"preset {name!r}: timm cannot build it for MUSE: {error}") from None


def _made(name: str, options: EncoderOptions, **arguments: object) -> TimmNet:
    return timm.create_model(name, options.pretrained, **arguments)


@cache  # a network is built to ask it
def _level_indices(name: str) -> tuple[int, ...] | None:
    """Which of a network's features are at strides 4, 8, 16 and 32; None for a transformer, all of one stride.

    Raises:
        ConfigError: its strides are neither.
    """
    with torch.device("meta"):  # shapes alone, no numbers
        about = timm.create_model(name, features_only=True).feature_info
    strides = about.reduction()
    if len(set(strides)) == 1:
        return None
    if not set(STRIDES) <= set(strides):
        raise ConfigError(f"preset {name!r}: features at strides {strides}; 4, 8, 16 and 32 needed, or all of one")
    return tuple(about.out_indices[strides.index(stride)] for stride in STRIDES)


def _is_plain(net: TimmNet) -> bool:
    """Whether a network is the ViT that DINO has, so that its forward pass can be written out."""
    if type(net) is not VisionTransformer:
        return False
    extras = (net.norm_pre, net.patch_embed.norm, net.fc_norm)
    plain = net.num_prefix_tokens == 1 and net.cls_token is not None and not net.no_embed_class
    return bool(plain) and all(isinstance(extra, nn.Identity) for extra in extras)


def _tapped(depth: int) -> tuple[int, ...]:
    """The last blocks of the four quarters: 2, 5, 8 and 11 of 12. Source: the released code of MUSE."""
    return tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
