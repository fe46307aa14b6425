"""What happens to a view's pixels: stain, colour, focus, noise, compression. Nothing here moves a nucleus.

Pictures are (H, W, 3) uint8 RGB, and everything draws from the numpy Generator that it is given.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.images.stain import RUIFROK_DAB, RUIFROK_EOSIN, RUIFROK_HAEMATOXYLIN
from muse_core.pretrain.views.settings import Photometrics

Picture = NDArray[np.uint8]

# Source: ITU-R BT.601, the luma that Pillow and torchvision use.
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_GREY = np.tile(_LUMA, (3, 1))
_EYE = np.eye(3)

# Source: the NTSC YIQ colour space; hue turns the I-Q plane and leaves luma alone.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)

_STAINS = np.array([RUIFROK_HAEMATOXYLIN, RUIFROK_EOSIN, RUIFROK_DAB])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS)

_LN10, _LN255 = math.log(10), math.log(255)
_LN_OF_LIGHT = np.log(np.maximum(np.arange(256), 1)).astype(np.float32)[None]  # (1, 256): 0 is read as 1


def augmented(image: Picture, settings: Photometrics, rng: np.random.Generator) -> Picture:
    """A picture as another laboratory, scanner and archive might have it."""
    if rng.random() < settings.stain_share:
        image = restained(image, settings, rng)
    jitter = rng.random() < settings.colour_share
    grey = rng.random() < settings.grey_share
    if jitter:
        image = recoloured(image, settings, rng)
    if grey:
        image = np.asarray(cv2.transform(image, _TO_GREY), np.uint8)
    if rng.random() < settings.blur_share:
        image = blurred(image, rng.uniform(*settings.blur_sigma_px))
    if rng.random() < settings.solarize_share:
        image = np.where(image < 128, image, 255 - image).astype(np.uint8)
    if rng.random() < settings.noise_share:
        image = noisy(image, rng.uniform(0, settings.noise_sd), rng)
    if rng.random() < settings.jpeg_share:
        image = recompressed(image, int(rng.integers(settings.jpeg_quality[0], settings.jpeg_quality[1] + 1)))
    return image


def restained(image: Picture, settings: Photometrics, rng: np.random.Generator) -> Picture:
    """Unmix into haematoxylin, eosin and DAB, change the amount of each, mix again.

    All of it is one affine map of optical density: with the stain vectors as rows of S, amounts are od S^-1, and
    od' = (od S^-1 diag(gain) + offset) S.

    Source: Tellez et al., Quantifying the effects of data augmentation and stain color normalization, 2019,
    arXiv 1902.06543, HED transformation.
    """
    gain = 1 + rng.uniform(-settings.stain_gain, settings.stain_gain, 3)
    offset = rng.uniform(-settings.stain_offset, settings.stain_offset, 3)
    mix = _UNMIX @ (gain[:, None] * _STAINS)
    # Light is 255 * 10^-od, so that all of it is an affine map of the light's logarithm.
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = mix.T
    matrix[:, 3] = _LN255 * (1 - mix.sum(axis=0)) - _LN10 * (offset @ _STAINS)
    exponent = cv2.transform(cv2.LUT(image, _LN_OF_LIGHT), matrix)
    return np.asarray(cv2.convertScaleAbs(cv2.exp(exponent, exponent)), np.uint8)


def recoloured(image: Picture, settings: Photometrics, rng: np.random.Generator) -> Picture:
    """Brightness, contrast, saturation and hue, as one affine map of RGB; only the end is clipped to 0..255."""
    brightness, contrast, saturation = 1 + np.array(
        [rng.uniform(-strength, strength) for strength in (settings.brightness, settings.contrast, settings.saturation)]
    )
    angle = 2 * math.pi * rng.uniform(-settings.hue, settings.hue)
    mean_grey = brightness * float(_LUMA @ cv2.mean(image)[:3])
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    colourfulness = saturation * _EYE + (1 - saturation) * _TO_GREY
    matrix = np.empty((3, 4))
    matrix[:, :3] = _YIQ_TO_RGB @ turn @ _RGB_TO_YIQ @ colourfulness * (brightness * contrast)
    matrix[:, 3] = (1 - contrast) * mean_grey  # a grey offset passes hue and saturation as it is
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def blurred(image: Picture, sigma_px: float) -> Picture:
    """Out of focus: OpenCV's Gaussian blur of bytes within one grey value, at a third of its cost on views."""
    taps = cv2.getGaussianKernel(round(6 * sigma_px + 1) | 1, sigma_px, cv2.CV_32F)
    return np.asarray(cv2.sepFilter2D(image, -1, taps, taps), np.uint8)


def noisy(image: Picture, sd: float, rng: np.random.Generator) -> Picture:
    """Gaussian noise of a standard deviation in grey values."""
    cv2.setRNGSeed(int(rng.integers(1, 2**31)))  # of this thread; three times as fast as NumPy's
    noise = np.empty(image.shape, np.int16)
    cv2.randn(noise, (0.0, 0.0, 0.0), (sd, sd, sd))
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def recompressed(image: Picture, quality: int) -> Picture:
    """Through JPEG and back."""
    # OpenCV takes the channels for B, G, R, both ways: chroma is subsampled in a slightly other colour space, no more.
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
