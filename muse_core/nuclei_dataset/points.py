"""Nuclei between network and table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class NucleusPoints:
    """Nuclei of one slide, in any order.

    Attributes:
        xy_level0: (N, 2) float, level-0 px of the full image.
        class_ids: (N,) int, index into the header's class names.
        scores: (N,) float32, 0..1: that it is a nucleus.
        probabilities: (N, C) float32, 0..1: that it is of each class.
        in_tissue: (N,) bool: whether it lies in the slide's tissue polygons.
        embeddings: (N, E) float16 where the header names a size.
    """

    xy_level0: NDArray[np.floating]
    class_ids: NDArray[np.integer]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    in_tissue: NDArray[np.bool_]
    embeddings: NDArray[np.float16] | None = None


def taken(nuclei: NucleusPoints, kept: NDArray[np.bool_]) -> NucleusPoints:
    """Those of some nuclei that a mask (N,) keeps."""
    return NucleusPoints(
        nuclei.xy_level0[kept],
        nuclei.class_ids[kept],
        nuclei.scores[kept],
        nuclei.probabilities[kept],
        nuclei.in_tissue[kept],
        None if nuclei.embeddings is None else nuclei.embeddings[kept],
    )


def join_nuclei(parts: Sequence[NucleusPoints]) -> NucleusPoints:
    """Some nuclei after others; at least one part."""
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    return NucleusPoints(
        np.concatenate([part.xy_level0 for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.in_tissue for part in parts]),
        np.concatenate(embeddings) if embeddings else None,
    )
