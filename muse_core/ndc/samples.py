"""LFoV samples (eq. 8): the annotated region somewhere in a larger field of view, with masks of what is known where.

A sample shows `side_px` at about 0.5 µm/px. Where the region is larger than that, part of it; where it is smaller, all
of it at a random place, with the tissue around it if the image holds any, and mirrored tissue, masked, where not.
Scale, angle, mirroring and colours are drawn with it: nuclei and masks move with the pixels, classes stay.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.detector.augment import (
    AugmentSettings,
    View,
    degraded,
    empty_picture,
    immunostained,
    recoloured,
    relit,
)
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region
from muse_core.models.nucleus_model import NETWORK_MPP


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        image: (n, n, 3) uint8 RGB, colours and sharpness changed.
        plain: the same picture with its own colours, for the teacher.
        xy: (N, 2) float64 labelled nuclei, continuous px of the picture; those just outside are kept.
        class_ids: (N,) int64.
        seen: (n, n) bool, where there is tissue or glass rather than padding.
        annotated: (n, n) bool, the annotated region.
    """

    image: NDArray[np.uint8]
    plain: NDArray[np.uint8]
    xy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    seen: NDArray[np.bool_]
    annotated: NDArray[np.bool_]


def draw_sample(region: Region, side_px: int, augment: AugmentSettings, rng: np.random.Generator) -> Sample:
    """A random sample of a region; now and then, as `augment.empty_share` says, a picture without tissue instead."""
    if rng.random() < augment.empty_share:
        everywhere = np.ones((side_px, side_px), bool)
        image = degraded(relit(empty_picture(side_px, rng), augment, rng), augment, rng)
        return Sample(image, image, np.empty((0, 2)), np.empty(0, np.int64), everywhere, everywhere)
    plain = _cut(region, side_px, augment, rng)
    image, class_ids, kind = plain.image, plain.class_ids, rng.random()
    if kind < augment.immuno_share:
        image = immunostained(View(image, plain.xy, class_ids, plain.seen), rng)
        class_ids = np.full_like(class_ids, UNKNOWN_CLASS)  # such a stain shows where nuclei are, but not what
    elif kind < augment.immuno_share + (1 - augment.immuno_share) * augment.stain_share:
        image = recoloured(image, augment, rng)
    image = degraded(relit(image, augment, rng), augment, rng)
    return Sample(image, plain.image, plain.xy, class_ids, plain.seen, plain.annotated)


def joined(one: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Two samples of one side, joined at a straight cut somewhere in the middle half, upright or level."""
    side_px = len(one.seen)
    at = round(side_px * rng.uniform(0.25, 0.75))
    beyond = np.zeros((side_px, side_px), bool)
    beyond[at:] = True
    axis = int(rng.integers(2))  # of x, y
    beyond = beyond.T if axis == 0 else beyond
    mine, theirs = one.xy[:, axis] < at, other.xy[:, axis] >= at
    return Sample(
        np.where(beyond[..., None], other.image, one.image),
        np.where(beyond[..., None], other.plain, one.plain),
        np.concatenate([one.xy[mine], other.xy[theirs]]),
        np.concatenate([one.class_ids[mine], other.class_ids[theirs]]),
        np.where(beyond, other.seen, one.seen),
        np.where(beyond, other.annotated, one.annotated),
    )


def _cut(region: Region, side_px: int, augment: AugmentSettings, rng: np.random.Generator) -> Sample:
    """Place, scale, turn and mirror in one resampling."""
    mpp = NETWORK_MPP * math.exp(rng.normal(0, augment.scale_sd))
    scale = float(np.clip(mpp, augment.mpp_min, augment.mpp_max)) / region.mpp  # image px a picture px
    angle = rng.integers(4) * math.pi / 2
    if rng.random() < augment.rotate_share:
        angle += rng.uniform(-0.8, 0.8)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    centre = np.array([_centre(span, scale * side_px, rng) for span in region.annotated_span])

    # Continuous frames: image = turn @ (picture - side / 2) + centre. OpenCV puts pixel centres at integers.
    matrix = np.column_stack([turn, centre - turn @ np.full(2, (side_px - 1) / 2) - 0.5])
    seen = _warped_mask(np.ones(region.image.shape[:2], bool), matrix, side_px)
    xy = (region.xy - centre) @ np.linalg.inv(turn).T + side_px / 2
    near = ((xy > -8) & (xy < side_px + 8)).all(axis=1)
    picture = _warped(region.image, matrix, side_px, scale)
    annotated = seen if region.annotated is None else _warped_mask(region.annotated, matrix, side_px)
    return Sample(picture, picture, xy[near], region.class_ids[near], seen, annotated)


def _centre(span: tuple[float, float], field: float, rng: np.random.Generator) -> float:
    """Along one axis, the middle of a field of view that holds all of the span, or lies within it.

    Eq. 8 draws the field's start from span start - U(0, field - span length); with a field smaller than the span the
    same two ends bound it the other way round.

    Args:
        span: first and last px of the annotated region.
        field: length of the field of view, px of the image.
        rng: what is drawn from.
    """
    first, last = span[0], span[1] - field
    return float(rng.uniform(min(first, last), max(first, last))) + field / 2


def _warped(image: NDArray[np.uint8], matrix: NDArray[np.float64], side_px: int, scale: float) -> NDArray[np.uint8]:
    if scale > 1.15:  # reading coarser than the image would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.45 * math.sqrt(scale**2 - 1)), np.uint8)
    kernel = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_CUBIC
    flags = kernel | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, matrix, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def _warped_mask(mask: NDArray[np.bool_], matrix: NDArray[np.float64], side_px: int) -> NDArray[np.bool_]:
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, (side_px, side_px), flags=flags), bool)
