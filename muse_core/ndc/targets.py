"""What the network should have said of a batch of samples: which proposal is which nucleus, and which is none."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.geometry import inside
from muse_core.models.heat import NO_CLASS, draw_heat
from muse_core.models.ndc import Proposals
from muse_core.ndc.assign import assign
from muse_core.ndc.samples import Sample


@dataclass(frozen=True)
class Targets:
    """Targets of all proposals of a batch, flattened to (B*P,), on the proposals' device.

    Attributes:
        classes: int64, C of background, `UNKNOWN_CLASS` of a nucleus whose class nobody said.
        labelled: bool, proposals within the annotated region, or matched to a nucleus of it.
        unlabelled: bool, proposals on tissue of which nothing is known.
        matched: (N,) int64 rows of the proposals that are nuclei.
        nucleus_xy: (N, 2) float32 their nuclei, px.
    """

    classes: Tensor
    labelled: Tensor
    unlabelled: Tensor
    matched: Tensor
    nucleus_xy: Tensor


def targets_of(proposals: Proposals, samples: Sequence[Sample], *, spacing_px: int, distance_weight: float) -> Targets:
    """Match each sample's proposals with its nuclei.

    A proposal belongs to the annotated region by its place on the grid, not by where it points. Those within one
    spacing around the region may be matched, too, for nuclei at its rim; unmatched, they are neither nuclei nor
    background, as nothing is known there.
    """
    n_classes = proposals.logits.shape[-1] - 1
    device = proposals.logits.device
    grid = proposals.grid_xy.cpu().numpy()
    cells = tuple(np.minimum(grid[:, ::-1].astype(int), np.array(samples[0].annotated.shape) - 1).T)  # rows, columns
    chances = proposals.logits.detach().softmax(-1).cpu().numpy()
    places = proposals.xy.detach().cpu().numpy()
    classes, labelled, unlabelled, matched, nuclei = [], [], [], [], []
    for index, sample in enumerate(samples):
        annotated = sample.annotated[cells]
        allowed = np.flatnonzero(_grown(sample.annotated, spacing_px)[cells])
        known = _within(sample)
        xy, class_ids = sample.xy[known], sample.class_ids[known]
        found = assign(
            places[index][allowed], chances[index][allowed, :-1], xy, class_ids, distance_weight=distance_weight
        )
        taken = found >= 0
        rows = allowed[found[taken]]
        target = np.full(len(grid), n_classes, np.int64)
        target[rows] = class_ids[taken]
        annotated[rows] = True
        classes.append(target)
        labelled.append(annotated)
        unlabelled.append(sample.seen[cells] & ~_grown(sample.annotated, spacing_px)[cells])
        matched.append(rows + index * len(grid))
        nuclei.append(xy[taken])
    nucleus_xy = [xy.astype(np.float32) for xy in nuclei]
    parts = (classes, labelled, unlabelled, matched, nucleus_xy)
    return Targets(*(torch.from_numpy(np.concatenate(part)).to(device) for part in parts))


def _within(sample: Sample) -> NDArray[np.bool_]:
    """Which nuclei lie in the picture and in its annotated region."""
    side = len(sample.annotated)
    within = inside(sample.xy, side, side)
    columns, rows = sample.xy[within].astype(int).T
    within[within] = sample.annotated[rows, columns]
    return within


def _grown(mask: NDArray[np.bool_], reach_px: int) -> NDArray[np.bool_]:
    kernel = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), bool)


class DenseTargets(NamedTuple):
    """Targets of the dense head, at stride 2.

    Attributes:
        heat: (B, h, w) float32, 0..1, how near a nucleus is.
        classes: (B, h, w) int64, `heat.NO_CLASS` away from nuclei and outside the annotated region.
        known: (B, h, w) bool, the annotated region.
    """

    heat: Tensor
    classes: Tensor
    known: Tensor


def dense_targets(
    samples: Sequence[Sample], *, sigma_px: float, in_turn: Callable[..., Iterable[Any]] = map
) -> DenseTargets:
    """What the dense head is to say of samples.

    Nuclei just outside the annotated region or the picture count, too: their heat reaches into it.

    Args:
        samples: of a batch.
        sigma_px: of a nucleus' heat.
        in_turn: `map`, or that of a pool of threads.
    """
    drawn = list(in_turn(partial(_dense_maps, sigma_px), samples))
    return DenseTargets(*(torch.from_numpy(np.stack(maps)) for maps in zip(*drawn, strict=True)))


def _dense_maps(sigma_px: float, sample: Sample) -> tuple[NDArray[Any], ...]:
    heat, class_map = draw_heat(sample.xy, sample.class_ids, len(sample.annotated), sigma_px=sigma_px)
    annotated = sample.annotated[1::2, 1::2]
    return heat, np.where(annotated, class_map, NO_CLASS), annotated
