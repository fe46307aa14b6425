"""What fine-tuning learns from: images with an annotated region in them, its nuclei, and all the tissue around it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse_core.labelled_patches import LabelledPatch
from muse_core.tcga import patient_barcode


@dataclass(frozen=True)
class Region:
    """One image and what is known of it.

    Attributes:
        name: of the region, for people.
        case: whose tissue it is; folds never part a case.
        image: (H, W, 3) uint8 RGB, the annotated region and what surrounds it.
        mpp: µm/px of the image, both axes.
        annotated: (H, W) bool, the annotated region Omega; None for the whole image. Elsewhere nothing is labelled.
        xy: (N, 2) float32 nuclei, continuous px of the image.
        class_ids: (N,) int64.
    """

    name: str
    case: str
    image: NDArray[np.uint8]
    mpp: float
    annotated: NDArray[np.bool_] | None
    xy: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    @property
    def annotated_span(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last px of the annotated region along x and along y; of the image where nothing is annotated."""
        height, width = self.image.shape[:2]
        if self.annotated is None or not self.annotated.any():
            return (0.0, float(width)), (0.0, float(height))
        columns, rows = np.flatnonzero(self.annotated.any(0)), np.flatnonzero(self.annotated.any(1))
        return (float(columns[0]), float(columns[-1] + 1)), (float(rows[0]), float(rows[-1] + 1))


def regions_of(patches: Sequence[LabelledPatch]) -> list[Region]:
    """Labelled patches as regions: all of each image is annotated, and nothing surrounds it.

    TCGA's barcodes say whose tissue a patch is; a patch of another name is a case of its own.
    """
    return [
        Region(
            patch.name,
            patient_barcode(patch.name) or patch.name,
            patch.image,
            patch.mpp,
            None,
            patch.xy,
            patch.class_ids,
        )
        for patch in patches
    ]


def unlabelled_region(name: str, image: NDArray[np.uint8], mpp: float) -> Region:
    """An image of which nothing is known."""
    nowhere = np.zeros(image.shape[:2], bool)
    return Region(name, name, image, mpp, nowhere, np.empty((0, 2), np.float32), np.empty(0, np.int64))
