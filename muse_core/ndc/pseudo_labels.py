"""What the teacher finds outside the annotated regions, for the dense head to learn from as if it were labelled."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from muse_core.models.ndc_readout import nuclei_by_heat
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.samples import Sample
from muse_core.ndc.settings import FinetuneLossSettings

_MIN_DISTANCE_PX = 6.0  # between two nuclei, as they are read
_REACH_PX = 6  # of what one nucleus, or a label's doubt, says about the pixels around it


def pseudo_labelled(samples: Sequence[Sample], dense: Tensor, settings: FinetuneLossSettings) -> list[Sample]:
    """Samples whose nuclei are those that the teacher is sure of, and whose known pixels are all but the doubtful ones.

    Sure of a nucleus is a chance and a class of at least `nucleus_confidence`; of none a chance below
    1 - `background_confidence`. What lies between says nothing, nor do the pixels around it.

    Args:
        samples: of a batch.
        dense: (B, C + 1, h, w) float32 logits of the teacher for the pictures with their own colours, heat last.
        settings: the two confidences.
    """
    maps = dense.float().cpu().numpy()
    return [
        _pseudo_labelled(sample, _found(maps[index], sample, settings), settings)
        for index, sample in enumerate(samples)
    ]


def _found(dense: NDArray[np.float32], sample: Sample, settings: FinetuneLossSettings) -> NucleiFound:
    side_px = len(sample.annotated)
    return nuclei_by_heat(
        dense,
        (side_px, side_px),
        min_distance_px=_MIN_DISTANCE_PX,
        least_chance=1 - settings.background_confidence,
    )


def _pseudo_labelled(sample: Sample, found: NucleiFound, settings: FinetuneLossSettings) -> Sample:
    probabilities, least = found.probabilities, settings.nucleus_confidence
    sure = (found.score >= least) & (probabilities.max(axis=1) >= least)
    doubtful = _around(found.xy[~sure], len(sample.annotated))
    known = sample.seen & ~_grown(sample.annotated) & ~doubtful
    return replace(
        sample, xy=found.xy[sure].astype(np.float64), class_ids=probabilities.argmax(axis=1)[sure], annotated=known
    )


def _around(xy: NDArray[np.float32], side_px: int) -> NDArray[np.bool_]:
    """Pixels of a picture within reach of points (N, 2)."""
    marks = np.zeros((side_px, side_px), bool)
    columns, rows = xy.astype(int).T
    marks[rows, columns] = True
    return _grown(marks)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _REACH_PX + 1, 2 * _REACH_PX + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), bool)
