"""What the detector's training pictures go through, so that it meets any stain, scanner and scale.

Everything draws from the numpy Generator that it is given; pictures are (H, W, 3) uint8 RGB.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.config import Settings
from muse_core.labelled_patches import LabelledPatch

GLASS = (255, 255, 255)

# Optical density of haematoxylin, eosin and DAB in R, G, B.
# Source: Ruifrok & Johnston, Anal Quant Cytol Histol 23 (2001) 291.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_OPTICAL_DENSITY = -np.log((np.arange(256) + 1) / 256)


class AugmentSettings(Settings):
    """How strongly training pictures are changed. Strengths are standard deviations unless they are called a share."""

    mpp_min: float = 0.35  # finest scale shown, µm/px
    mpp_max: float = 0.7  # coarsest
    scale_sd: float = 0.15  # of the log of the scale, around the network's own 0.5 µm/px
    rotate_share: float = 0.3  # pictures turned by any angle; all are turned by quarters and mirrored
    stain_share: float = 0.9  # pictures whose stain changes
    stain_vector_sd: float = 0.06  # of the components of unit stain vectors
    stain_gain_sd: float = 0.25  # of the log of each stain's amount
    stain_offset_sd: float = 0.03  # of optical density, a channel
    grey_share: float = 0.07
    saturation: float = 0.5  # the colourfulness of half of the pictures is multiplied by 1 +- this
    blur_share: float = 0.3
    sharpen_share: float = 0.1
    noise_share: float = 0.25
    jpeg_share: float = 0.4
    empty_share: float = 0.03  # pictures of glass, pen, dirt or one colour, without nuclei


@dataclass(frozen=True)
class View:
    """One training picture.

    Attributes:
        image: (n, n, 3) uint8 RGB.
        xy: (N, 2) float, nuclei in continuous px of the picture; those just outside are kept, as their heat reaches in.
        class_ids: (N,) int64.
        valid: (n, n) bool, where the patch had pixels; elsewhere nothing is known.
    """

    image: NDArray[np.uint8]
    xy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    valid: NDArray[np.bool_]


def random_view(patch: LabelledPatch, side_px: int, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """A random part of a patch at a random scale and angle, its colours and sharpness changed."""
    if rng.random() < settings.empty_share:
        everywhere = np.ones((side_px, side_px), bool)
        image = degraded(empty_picture(side_px, rng), settings, rng)
        return View(image, np.empty((0, 2)), np.empty(0, np.int64), everywhere)
    view = cut(patch, side_px, settings, rng)
    image = recoloured(view.image, settings, rng) if rng.random() < settings.stain_share else view.image
    return View(degraded(image, settings, rng), view.xy, view.class_ids, view.valid)


def cut(patch: LabelledPatch, side_px: int, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """Cut, scale, turn and mirror in one resampling; nuclei move with the pixels."""
    mpp = float(np.clip(0.5 * math.exp(rng.normal(0, settings.scale_sd)), settings.mpp_min, settings.mpp_max))
    scale = mpp / patch.mpp  # patch px a picture px
    angle = rng.integers(4) * math.pi / 2 + (rng.uniform(-0.8, 0.8) if rng.random() < settings.rotate_share else 0.0)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    height, width = patch.image.shape[:2]
    half = scale * side_px / 2
    centre = np.array([_centre(length, half, rng) for length in (width, height)])

    # Continuous frames: patch = turn @ (picture - side / 2) + centre. OpenCV puts pixel centres at integers.
    matrix = np.column_stack([turn, centre - turn @ np.full(2, (side_px - 1) / 2) - 0.5])
    source = patch.image
    if scale > 1.15:  # reading coarser than the patch would alias
        source = cv2.GaussianBlur(source, (0, 0), 0.45 * math.sqrt(scale**2 - 1))
    kernel = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_CUBIC
    size = (side_px, side_px)
    image = cv2.warpAffine(source, matrix, size, flags=kernel | cv2.WARP_INVERSE_MAP, borderValue=GLASS)
    inside = np.ones((height, width), np.uint8)
    valid = cv2.warpAffine(inside, matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)

    xy = (patch.xy - centre) @ np.linalg.inv(turn).T + side_px / 2
    near = ((xy > -8) & (xy < side_px + 8)).all(axis=1)
    return View(np.asarray(image, np.uint8), xy[near], patch.class_ids[near], valid.astype(bool))


def _centre(length: int, half: float, rng: np.random.Generator) -> float:
    """A random centre that keeps the picture inside the patch, or the middle where it does not fit."""
    return float(rng.uniform(half, length - half)) if length > 2 * half else length / 2


def recoloured(image: NDArray[np.uint8], settings: AugmentSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Unmix into stains, change their amounts, mix with other stain vectors; then exposure and colourfulness."""
    seen = _STAINS + rng.normal(0, settings.stain_vector_sd / 3, (3, 3))
    wished = np.clip(seen + rng.normal(0, settings.stain_vector_sd, (3, 3)), 0.01, None)
    wished /= np.linalg.norm(wished, axis=1, keepdims=True)
    gain = np.exp(rng.normal(0, settings.stain_gain_sd, 3) + rng.normal(0, 0.1))
    offset = rng.normal(0, settings.stain_offset_sd, 3)
    mix = (np.linalg.inv(seen) @ np.diag(gain) @ wished).astype(np.float32)
    density = _OPTICAL_DENSITY.astype(np.float32)[image].reshape(-1, 3)  # (H, W, 3) -> (H*W, 3)
    pixels = 256 * np.exp(-(density @ mix + offset.astype(np.float32))) - 1
    if rng.random() < settings.grey_share:
        pixels = np.repeat(pixels.mean(axis=1, keepdims=True), 3, axis=1)
    elif rng.random() < 0.5:
        grey = pixels.mean(axis=1, keepdims=True)
        pixels = grey + (pixels - grey) * rng.uniform(1 - settings.saturation, 1 + settings.saturation)
    pixels = pixels * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12)
    return np.asarray(np.clip(pixels, 0, 255), np.uint8).reshape(image.shape)


def degraded(image: NDArray[np.uint8], settings: AugmentSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Out of focus or sharpened, noisy, compressed."""
    draw = rng.random()
    if draw < settings.blur_share:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3)), np.uint8)
    elif draw < settings.blur_share + settings.sharpen_share:
        image = np.asarray(cv2.addWeighted(image, 1.8, cv2.GaussianBlur(image, (0, 0), 1.0), -0.8, 0), np.uint8)
    if rng.random() < settings.noise_share:
        noise = rng.normal(0, rng.uniform(1, 8), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < settings.jpeg_share:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)  # channel order is as it was
    return image


def empty_picture(side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Glass, dirt on glass, pen strokes, or one colour."""
    shape = (side_px, side_px, 3)
    pixels = np.full(shape, rng.uniform(200, 255), np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    kind = rng.integers(4)
    if kind == 1:
        pixels += cv2.GaussianBlur(rng.normal(0, 60, shape).astype(np.float32), (0, 0), rng.uniform(3, 20))
    elif kind == 2:
        ink = rng.uniform(0, 160, 3).tolist()
        for _ in range(rng.integers(1, 4)):
            stroke = rng.uniform(0, side_px, (4, 1, 2)).astype(np.int32)
            cv2.polylines(pixels, [stroke], isClosed=False, color=ink, thickness=int(rng.integers(8, 60)))
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 4))
    elif kind == 3:
        pixels[:] = rng.uniform(0, 255, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)
