"""The MUSE backbone: an encoder, the decoder sized to it, and how both are built.

    from muse_core.models.backbone import BackboneSettings, build_backbone, sample_at, standardised
    backbone = build_backbone(BackboneSettings(preset="vit-s16"))
    features = backbone(backbone.standardised(rgb))  # map (B, D, H / 4, W / 4), image (B, C)
    nuclei = sample_at(features.map, xy, image_index, side_px=(224, 224), mode=backbone.sampling)  # (N, D)

Presets `vit-s16` (31,070,784 parameters), `vit-b16` (123,409,536) and `resnet50` (86,435,392) are the paper's; `nano`
is ours, for two CPU cores; any name of timm gives that network with a decoder sized to it.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from muse_core.config import Settings
from muse_core.errors import DatasetError
from muse_core.models.decoder import MuseDecoder
from muse_core.models.encoder import Encoder, EncoderOptions, encoder_of
from muse_core.models.feature_sampling import SamplingMode, sample_at
from muse_core.models.imagenet import IMAGENET_MEAN, IMAGENET_STD, load_imagenet_nano
from muse_core.models.map_resize import moved

__all__ = [
    "BackboneSettings",
    "Features",
    "MuseBackbone",
    "build_backbone",
    "sample_at",
    "standardised",
]

NETWORKS = {
    "nano": "tf_efficientnet_lite0",
    "vit-s16": "vit_small_patch16_224",
    "vit-b16": "vit_base_patch16_224",
    "resnet50": "resnet50",
}

# Chosen by measuring seconds of one core for 2000 x 2000 px (1 mm2) in bfloat16, channels last, norms folded: the
# encoder takes 0.61, decoders of widths (24, 40, 112, 320) 0.32, (32, 48, 96, 160) 0.30, (48, 64, 96, 160) 0.45 and
# (64, 96, 128, 192) 0.80. A training step of the third costs half of the encoder's, of the last nearly as much as it.
_NANO_WIDTHS = (48, 64, 96, 160)
_NANO_MAP_CHANNELS = 192


class BackboneSettings(Settings):
    """Which backbone, and how it starts."""

    preset: str = "nano"  # nano, vit-s16, vit-b16, resnet50, or any name of timm
    image_px: int = Field(224, ge=16)  # that the learned positions of a ViT are for; the paper: 224, LFoV 512
    init: str = ""  # a file that the whole backbone starts from: of a finished run, or a released MUSE checkpoint
    imagenet: bool = False  # start the encoder from ImageNet weights rather than at random
    drop_path: float = Field(0.0, ge=0, lt=1)  # stochastic depth of the encoder; DINO: 0.1, in the student alone
    decoder: bool = True  # off: the map is the encoder's last one (table 4 of the paper, first row)
    hybrid: bool = True  # off: the map is the finest decoder level alone (table 4, second row)
    # What is taken away from RGB, 0..1, and what it is divided by: of the weights. None: ImageNet's, or with `imagenet`
    # what timm says of them; 0.5 and 0.5 for its AugReg ViTs. Files of backbones always say it.
    input_mean: tuple[float, float, float] | None = None
    input_std: tuple[float, float, float] | None = None
    geometry: SamplingMode = "exact"  # official: corners aligned in resizing and look-up, as the released weights want


class InputScale(NamedTuple):
    """What an encoder takes: (RGB - mean) / std, of RGB 0..1."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


IMAGENET_INPUT = InputScale()


class Features(NamedTuple):
    """What a backbone says of images.

    Attributes:
        map: (B, D, H / 4, W / 4), channels last in memory.
        image: (B, C), of the whole image: the class token, or the last level's mean.
    """

    map: Tensor
    image: Tensor


class MuseBackbone(nn.Module):
    """Encoder and decoder; `encoder.encoder` and `decoder` name their parameters as the released weights do.

    Args:
        encoder: see `encoder_of`.
        decoder: None for the encoder's last level as the map.
        sampling: how `sample_at` must read the map.

    Attributes:
        map_channels: D of the map.
        image_channels: C of the image feature.
        output_stride: px of the image a map pixel; 4, or the encoder's without a decoder.
        side_multiple: sides of images are multiples of this.
        input: what its weights take.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: MuseDecoder | None,
        *,
        sampling: SamplingMode,
        input_scale: InputScale = IMAGENET_INPUT,
    ) -> None:
        super().__init__()
        self.input = input_scale
        self.encoder = encoder
        self.decoder = decoder
        self.sampling = sampling
        self.map_channels = decoder.map_channels if decoder else encoder.level_channels[-1]
        self.image_channels = encoder.image_channels
        self.output_stride = 4 if decoder else encoder.last_stride
        self.side_multiple = encoder.side_multiple

    def forward(self, images: Tensor) -> Features:
        """Images to the map and the image feature.

        Args:
            images: (B, 3, H, W) float, from its `standardised`; sides multiples of `side_multiple`, 16 for a ViT.

        Raises:
            DatasetError: a side is no such multiple.
        """
        images = self._checked(images)
        levels, image = self.encoder(images)
        if self.decoder is None:
            shift = self.encoder.last_shift_px / self.output_stride if self.sampling == "exact" else 0.0
            return Features(moved(levels[-1], shift) if shift else levels[-1], image)
        return Features(self.decoder(levels, (images.shape[-2], images.shape[-1])), image)

    def standardised(self, rgb: Tensor) -> Tensor:
        """RGB (B, 3, H, W) uint8 to float32 as its weights take it."""
        return standardised(rgb, self.input)

    def encode(self, images: Tensor) -> Tensor:
        """The image feature (B, C) of images as `forward` takes them, at the cost of the encoder alone."""
        image: Tensor = self.encoder(self._checked(images)).image
        return image

    def _checked(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.side_multiple or width % self.side_multiple:
            raise DatasetError(f"image of {width} x {height} px; sides must be multiples of {self.side_multiple}")
        return images.contiguous(memory_format=torch.channels_last)


def build_backbone(settings: BackboneSettings) -> MuseBackbone:
    """The backbone that the settings describe, in training mode.

    Raises:
        ConfigError: no such preset or network, or ImageNet weights that cannot be had.
    """
    nano = settings.preset == "nano"
    options = EncoderOptions(
        image_px=settings.image_px,
        drop_path=settings.drop_path,
        centred=settings.geometry == "exact",
        pretrained=settings.imagenet and not nano,
    )
    encoder = encoder_of(NETWORKS.get(settings.preset, settings.preset), options)
    if nano and settings.imagenet:
        load_imagenet_nano(encoder.encoder)
    decoder = _decoder_for(encoder, settings) if settings.decoder else None
    if decoder is not None and settings.imagenet:
        decoder.start_as_projection()
    return MuseBackbone(encoder, decoder, sampling=settings.geometry, input_scale=_input_scale(settings, encoder))


def _input_scale(settings: BackboneSettings, encoder: Encoder) -> InputScale:
    own = IMAGENET_INPUT
    if settings.imagenet and settings.preset != "nano":
        own = timm_input(encoder)
    return InputScale(settings.input_mean or own.mean, settings.input_std or own.std)


def timm_input(encoder: Encoder) -> InputScale:
    """What timm's own weights for an encoder take."""
    about = getattr(encoder.encoder, "pretrained_cfg", None) or {}
    return InputScale(tuple(about.get("mean") or IMAGENET_MEAN), tuple(about.get("std") or IMAGENET_STD))


def _decoder_for(encoder: Encoder, settings: BackboneSettings) -> MuseDecoder:
    """A decoder as wide as the encoder's levels, as the paper's are, save for nano's, which is sized by its speed."""
    last = encoder.level_channels[-1]
    widths, map_channels = encoder.level_channels, last // 8 * 4
    if settings.preset == "nano":
        widths, map_channels = _NANO_WIDTHS, _NANO_MAP_CHANNELS
    elif encoder.on_one_grid:
        widths, map_channels = (last // 4, last // 2, last, 2 * last), last
    return MuseDecoder(
        encoder.level_channels,
        widths,
        map_channels,
        alignment="corners" if settings.geometry == "official" else encoder.alignment,
        reassemble=encoder.on_one_grid,
        hybrid=settings.hybrid,
    )


def standardised(rgb: Tensor, scale: InputScale = IMAGENET_INPUT) -> Tensor:
    """RGB (B, 3, H, W) uint8 to float32, by ImageNet's mean and spread unless weights want others."""
    mean = torch.tensor(scale.mean, device=rgb.device).view(3, 1, 1) * 255
    std = torch.tensor(scale.std, device=rgb.device).view(3, 1, 1) * 255
    return (rgb.float() - mean).div_(std)
