"""What the detector's training pictures go through, so that it meets any stain, scanner and scale.

Everything draws from the numpy Generator that it is given; pictures are (H, W, 3) uint8 RGB.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.config import Settings
from muse_core.images.stain import RUIFROK_DAB, RUIFROK_EOSIN, RUIFROK_HAEMATOXYLIN
from muse_core.labels.regions import Region
from muse_core.models.nucleus_model import NETWORK_MPP

_STAINS = np.array([RUIFROK_HAEMATOXYLIN, RUIFROK_EOSIN, RUIFROK_DAB])  # each a row
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
# Haematoxylin as the counterstain of immunohistochemistry, where it is bluer; by eye from one colon section.
_COUNTERSTAIN = np.array([0.72, 0.62, 0.30])
_OPTICAL_DENSITY = -np.log((np.arange(256) + 1) / 256)


class AugmentSettings(Settings):
    """How strongly training pictures are changed. Strengths are standard deviations unless they are called a share."""

    mpp_min: float = 0.3  # finest scale shown, µm/px
    mpp_max: float = 0.8  # coarsest
    scale_sd: float = 0.2  # of the log of the scale, around the network's own 0.5 µm/px
    rotate_share: float = 0.3  # pictures turned by any angle; all are turned by quarters and mirrored
    immuno_share: float = 0.1  # pictures restained as immunohistochemistry; the rest keeps its H&E
    stain_share: float = 0.9  # pictures of H&E whose stain changes
    stain_vector_sd: float = 0.06  # of the components of unit stain vectors
    stain_gain_sd: float = 0.25  # of the log of each stain's amount
    stain_offset_sd: float = 0.03  # of optical density, a channel
    grey_share: float = 0.07
    saturation: float = 0.5  # the colourfulness of half of the pictures is multiplied by 1 +- this
    light_share: float = 0.5  # pictures as a dim, yellow or dense scan: a gain a channel, and a gamma
    light_min: float = 0.45  # darkest gain; drawn by its log
    light_max: float = 1.15
    light_tint_sd: float = 0.06  # of the log of a channel's own gain
    gamma_sd: float = 0.12  # of its log
    hue_share: float = 0.3
    hue_degrees: float = 15.0  # colours are turned about grey by up to this
    blur_share: float = 0.3
    sharpen_share: float = 0.1
    noise_share: float = 0.25
    jpeg_share: float = 0.4
    pigment_share: float = 0.05  # pictures with brown or black granules that are no nuclei
    empty_share: float = 0.03  # pictures of glass, pen, dirt or one colour, without nuclei


@dataclass(frozen=True)
class View:
    """One training picture.

    Attributes:
        image: (n, n, 3) uint8 RGB.
        xy: (N, 2) float, nuclei in continuous px of the picture; those just outside are kept, as their heat reaches in.
        class_ids: (N,) int64.
        valid: (n, n) bool, where every nucleus is labelled; elsewhere nothing is known.
    """

    image: NDArray[np.uint8]
    xy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    valid: NDArray[np.bool_]


def random_view(region: Region, side_px: int, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """A random part of a region's image at a random scale and angle, its colours and sharpness changed."""
    if rng.random() < settings.empty_share:
        everywhere = np.ones((side_px, side_px), bool)
        image = degraded(relit(empty_picture(side_px, rng), settings, rng), settings, rng)
        return View(image, np.empty((0, 2)), np.empty(0, np.int64), everywhere)
    view = cut(region, side_px, settings, rng)
    image, kind = view.image, rng.random()
    if kind < settings.immuno_share:
        image = immunostained(view, rng)
    elif kind < settings.immuno_share + (1 - settings.immuno_share) * settings.stain_share:
        image = recoloured(image, settings, rng)
    if rng.random() < settings.pigment_share:
        image = pigmented(image, view.xy, rng)
    return View(degraded(relit(image, settings, rng), settings, rng), view.xy, view.class_ids, view.valid)


def cut(region: Region, side_px: int, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """Cut, scale, turn and mirror in one resampling; nuclei move with the pixels."""
    scale, turn = drawn_turn(region.mpp, settings, rng)
    height, width = region.image.shape[:2]
    half = scale * side_px / 2
    centre = np.array([_centre(length, half, rng) for length in (width, height)])
    shown, corner = shown_part(centre, scale, side_px)
    matrix = placed(turn, centre - corner, side_px)
    image = warped(region.image[shown], matrix, side_px, scale)
    known = np.ones((height, width), bool) if region.annotated is None else region.annotated
    valid = warped_mask(known[shown], matrix, side_px)
    xy, near = nuclei_in(region.xy, turn, centre, side_px)
    return View(image, xy, region.class_ids[near], valid)


def shown_part(
    centre: NDArray[np.float64], scale: float, side_px: int
) -> tuple[tuple[slice, slice], NDArray[np.int64]]:
    """The rows and columns of an image that a picture shows at any angle, with what blurs into it; and their corner.

    Args:
        centre: (2,) x, y of the picture's middle, px of the image.
        scale: image px a picture px.
        side_px: of the picture.
    """
    reach = scale * side_px / 2 * math.sqrt(2) + 8 * max(1.0, scale)
    left, top = (max(0, int(middle - reach)) for middle in centre)
    shown = (slice(top, int(centre[1] + reach) + 1), slice(left, int(centre[0] + reach) + 1))
    return shown, np.array([left, top])


def drawn_turn(mpp: float, settings: AugmentSettings, rng: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    """A random scale, angle and mirroring of an image at `mpp`.

    Returns:
        Image px a picture px; and (2, 2), which takes steps in the picture to steps in the image.
    """
    wished = NETWORK_MPP * math.exp(rng.normal(0, settings.scale_sd))
    scale = float(np.clip(wished, settings.mpp_min, settings.mpp_max)) / mpp
    angle = rng.integers(4) * math.pi / 2
    if rng.random() < settings.rotate_share:
        angle += rng.uniform(-0.8, 0.8)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return scale, turn @ np.diag([-1.0, 1.0]) if rng.random() < 0.5 else turn


def placed(turn: NDArray[np.float64], centre: NDArray[np.float64], side_px: int) -> NDArray[np.float64]:
    """OpenCV's (2, 3) matrix from a picture's pixels to an image's.

    In continuous frames image = turn @ (picture - side / 2) + centre; OpenCV puts pixel centres at integers.
    """
    return np.column_stack([turn, centre - turn @ np.full(2, (side_px - 1) / 2) - 0.5])


def warped(image: NDArray[np.uint8], matrix: NDArray[np.float64], side_px: int, scale: float) -> NDArray[np.uint8]:
    """The picture (side, side, 3) that a matrix of `placed` cuts out of an image, mirrored beyond its rim."""
    if scale > 1.15:  # reading coarser than the image would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.45 * math.sqrt(scale**2 - 1)), np.uint8)
    flags = (cv2.INTER_LINEAR if scale > 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(image, matrix, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(picture, np.uint8)


def warped_mask(mask: NDArray[np.bool_], matrix: NDArray[np.float64], side_px: int) -> NDArray[np.bool_]:
    """The mask (side, side) that a matrix of `placed` cuts out of an image's; nothing lies beyond its rim."""
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, (side_px, side_px), flags=flags), bool)


def nuclei_in(
    xy: NDArray[np.floating], turn: NDArray[np.float64], centre: NDArray[np.float64], side_px: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """An image's nuclei (N, 2) in continuous px of a picture, those in or just outside it, and which those are (N,)."""
    moved = (xy - centre) @ np.linalg.inv(turn).T + side_px / 2
    near = np.asarray(((moved > -8) & (moved < side_px + 8)).all(axis=1), bool)
    return moved[near], near


def _centre(length: int, half: float, rng: np.random.Generator) -> float:
    """A random centre that keeps the picture inside the image, or the middle where it does not fit."""
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


def relit(image: NDArray[np.uint8], settings: AugmentSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """As another scanner would have seen it: colours turned about grey, glass less white and tinted, another gamma."""
    pixels = image.astype(np.float32)
    if rng.random() < settings.hue_share:
        pixels = pixels @ _turn_about_grey(math.radians(rng.uniform(-1, 1) * settings.hue_degrees)).T
    if rng.random() < settings.light_share:
        gain = math.exp(rng.uniform(math.log(settings.light_min), math.log(settings.light_max)))
        gains = (gain * np.exp(rng.normal(0, settings.light_tint_sd, 3))).astype(np.float32)
        gamma = math.exp(rng.normal(0, settings.gamma_sd))
        pixels = 255 * np.power(np.clip(pixels, 0, 255) / 255, gamma) * gains
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def _turn_about_grey(angle: float) -> NDArray[np.float32]:
    """The matrix (3, 3) that turns RGB about its grey axis: hues change, greys and lightness do not."""
    cosine, sine = math.cos(angle), math.sin(angle) / math.sqrt(3)
    rest = (1 - cosine) / 3
    return np.array(
        [
            [cosine + rest, rest - sine, rest + sine],
            [rest + sine, cosine + rest, rest - sine],
            [rest - sine, rest + sine, cosine + rest],
        ],
        np.float32,
    )


def immunostained(view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture as immunohistochemistry: pale blue nuclei, and DAB in or around some of them.

    The stain of membranes and cytoplasm makes a nucleus lighter than what is around it, which H&E never shows. Where
    membranes run is not known, so the borders between the nuclei's territories stand in for them.
    """
    density = _OPTICAL_DENSITY[view.image].reshape(-1, 3)  # (n, n, 3) -> (n*n, 3)
    amounts = np.maximum(density @ np.linalg.inv(_STAINS), 0).astype(np.float32).reshape(view.image.shape)
    blue, pink = amounts[..., 0], amounts[..., 1]
    inside = _nuclear_share(blue, view.xy)
    positive, to_border = _territories(view, rng)
    if rng.random() < 0.7:
        texture = np.clip(cv2.GaussianBlur(pink, (0, 0), 1.0) / max(float(np.median(pink)), 0.05), 0, 2) * 0.5 + 0.5
        border = np.exp(-(to_border**2) / (2 * rng.uniform(1, 2.5) ** 2))
        around = rng.uniform(0.1, 1.8) * texture + rng.uniform(0, 1.5) * border
        brown = positive * around * (1 - rng.uniform(0.4, 0.95) * inside)
    else:
        brown = positive * inside * rng.uniform(0.6, 2.5)
        blue = blue * (1 - rng.uniform(0.3, 1) * positive)
    blue = blue * rng.uniform(0.3, 0.9) + pink * rng.uniform(0, 0.2)
    brown = brown + pink * rng.uniform(0, 0.2)
    density = blue[..., None] * _near(_COUNTERSTAIN, 0.05, rng) + brown[..., None] * _near(_STAINS[2], 0.05, rng)
    pixels = 256 * np.exp(-density) * rng.uniform(0.9, 1.0) + rng.uniform(-8, 4)
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def _nuclear_share(blue: NDArray[np.float32], xy: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much of a pixel is nucleus, (n, n) 0..1: as blue as labelled nuclei are, or close to a dot."""
    side = len(blue)
    smooth = cv2.GaussianBlur(blue, (0, 0), 1.2)
    columns, rows = np.clip(xy.astype(int).T, 0, side - 1)
    at_dots = float(np.median(smooth[rows, columns])) if len(xy) else 1.0
    elsewhere = min(float(np.median(smooth)), 0.7 * at_dots)
    share = np.clip((smooth - elsewhere) / max(at_dots - elsewhere, 0.05), 0, 1)
    near = np.zeros_like(blue)
    for column, row in zip(columns.tolist(), rows.tolist(), strict=True):
        cv2.circle(near, (column, row), 4, 1.0, -1)
    return np.asarray(np.maximum(share, cv2.GaussianBlur(near, (0, 0), 1.5)), np.float32)


def _territories(view: View, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What belongs to nuclei chosen as positive, (n, n) 0..1, and each pixel's distance to the next territory, px."""
    side = len(view.image)
    dots = np.full((side, side), 255, np.uint8)
    columns, rows = np.clip(view.xy.astype(int).T, 0, side - 1)
    dots[rows, columns] = 0
    if not len(view.xy):
        return np.zeros((side, side), np.float32), np.full((side, side), float(side), np.float32)
    distance, owner = cv2.distanceTransformWithLabels(dots, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    kinds = view.class_ids - min(0, int(view.class_ids.min()))  # nuclei of unknown class are one kind more
    shares = np.clip(rng.uniform(-0.7, 1.7, 1 + int(kinds.max())), 0, 1)  # often none or all of a class
    chosen = np.zeros(int(owner.max()) + 1, np.float32)
    chosen[owner[rows, columns]] = rng.random(len(rows)) < shares[kinds]
    positive = chosen[owner] * (distance < rng.uniform(12, 30))
    edges = np.full((side, side), 255, np.uint8)
    edges[:, 1:][owner[:, 1:] != owner[:, :-1]] = 0
    edges[1:][owner[1:] != owner[:-1]] = 0
    to_border = np.minimum(cv2.distanceTransform(edges, cv2.DIST_L2, 3), side)  # endless where there is one territory
    return cv2.GaussianBlur(positive, (0, 0), 1.5).astype(np.float32), np.asarray(to_border, np.float32)


def _near(stain: NDArray[np.float64], sd: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A unit stain vector close to another."""
    vector = np.clip(stain + rng.normal(0, sd, 3), 0.01, None)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def pigmented(image: NDArray[np.uint8], xy: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """With clumps of melanin's brown or carbon's black granules, away from labelled nuclei."""
    side = len(image)
    pigment = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(1, 6)):
        centre = rng.uniform(0, side, 2)
        if len(xy) and np.linalg.norm(xy - centre, axis=1).min() < 14:
            continue
        granules = centre + rng.normal(0, rng.uniform(1.5, 6), (rng.integers(3, 40), 2))
        for x, y in granules.astype(int).tolist():
            cv2.circle(pigment, (x, y), int(rng.integers(0, 3)), 1.0, -1)
    shade = rng.uniform(0.8, 3) * cv2.GaussianBlur(pigment, (0, 0), rng.uniform(0.5, 1.0))
    colour = _near(_STAINS[2] if rng.random() < 0.7 else np.ones(3), 0.1, rng)
    return np.asarray(image * np.exp(-shade[..., None] * colour), np.uint8)


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
