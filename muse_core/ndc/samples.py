"""LFoV samples (eq. 8): the annotated region somewhere in a larger field of view, with masks of what is known where.

A sample shows `side_px` at about 0.5 µm/px. Where the region is larger than that, part of it; where it is smaller, all
of it at a random place, with the tissue around it if the image holds any, and mirrored tissue, masked, where not.
Scale, angle, mirroring and colours are drawn with it: nuclei and masks move with the pixels, classes stay.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.augment import (
    AugmentSettings,
    View,
    degraded,
    drawn_turn,
    empty_picture,
    immunostained,
    nuclei_in,
    placed,
    recoloured,
    relit,
    shown_part,
    warped,
    warped_mask,
)
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region


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
    scale, turn = drawn_turn(region.mpp, augment, rng)
    centre = np.array([_centre(span, scale * side_px, rng) for span in region.annotated_span])
    shown, corner = shown_part(centre, scale, side_px)
    image = region.image[shown]  # alone is blurred and turned: a region's image may be many times a sample
    matrix = placed(turn, centre - corner, side_px)
    seen = warped_mask(np.ones(image.shape[:2], bool), matrix, side_px)
    xy, near = nuclei_in(region.xy, turn, centre, side_px)
    picture = warped(image, matrix, side_px, scale)
    annotated = seen if region.annotated is None else warped_mask(region.annotated[shown], matrix, side_px)
    return Sample(picture, picture, xy, region.class_ids[near], seen, annotated)


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
