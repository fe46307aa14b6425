"""What training learns from: images with an annotated region in them, its nuclei, and all the tissue around it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.geometry import inside
from muse_core.labels import LabelledPatch, read_rgb
from muse_core.models.nucleus_model import NETWORK_MPP


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
        class_ids: (N,) int64, or `UNKNOWN_CLASS`.
        source: the dataset it is of, where there are several.
    """

    name: str
    case: str
    image: NDArray[np.uint8]
    mpp: float
    annotated: NDArray[np.bool_] | None
    xy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    source: str = ""

    def is_annotated(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which points (N, 2), px of the image, lie in its annotated region."""
        height, width = self.image.shape[:2]
        within = inside(xy, width, height)
        if self.annotated is not None:
            columns, rows = np.asarray(xy)[within].astype(int).T
            within[within] = self.annotated[rows, columns]
        return within

    @cached_property
    def annotated_span(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last px of the annotated region along x and along y; of the image where nothing is annotated."""
        height, width = self.image.shape[:2]
        if self.annotated is None or not self.annotated.any():
            return (0.0, float(width)), (0.0, float(height))
        columns, rows = np.flatnonzero(self.annotated.any(0)), np.flatnonzero(self.annotated.any(1))
        return (float(columns[0]), float(columns[-1] + 1)), (float(rows[0]), float(rows[-1] + 1))


_SAMPLE_REACH = 1.25  # times a sample's side at 0.5 µm/px: scales differ, and memory is dear
# As much of a nucleus' surroundings as inference brings: `ndc.head.MARGIN_UM`, which a layer above says.
VALIDATION_REACH_UM = 128.0


def regions_of(
    patches: Sequence[LabelledPatch], *, side_px: int | None = None, reach_um: float | None = None
) -> list[Region]:
    """Labelled patches as regions: all of each image is annotated.

    A patch of which nobody says whose tissue it is, is a case of its own. Of the tissue around a patch, where the
    dataset has it, as much comes along as `side_px` or `reach_um` say; none without them.

    Args:
        patches: of a dataset.
        side_px: of training samples at 0.5 µm/px that shall be drawn from the regions.
        reach_um: how far around the patch.

    Raises:
        DatasetError: an image of the surroundings cannot be read, or does not hold the patch.
    """
    return [_region_of(patch, side_px, reach_um) for patch in patches]


def _region_of(patch: LabelledPatch, side_px: int | None, reach_um: float | None) -> Region:
    if patch.surround is None or (side_px is None and reach_um is None):
        return _alone(patch)
    lengths = np.array(patch.image.shape[1::-1])  # x, y
    wanted = np.ceil((reach_um or 0.0) / patch.mpp) * np.ones(2)
    if side_px is not None:
        wanted = np.maximum(wanted, np.ceil(side_px * NETWORK_MPP * _SAMPLE_REACH / patch.mpp) - lengths)
    reach = tuple(int(one) for one in np.maximum(0, wanted))
    return _in_surround(patch, reach) if any(reach) else _alone(patch)


def _alone(patch: LabelledPatch) -> Region:
    case = patch.case or patch.name
    return Region(patch.name, case, patch.image, patch.mpp, patch.annotated, patch.xy, patch.class_ids)


def _in_surround(patch: LabelledPatch, reach: tuple[int, ...]) -> Region:
    """The patch with so many px of its surroundings on each side, along x and along y, as far as there are any."""
    assert patch.surround is not None
    image = read_rgb(patch.surround.path)
    x, y = patch.surround.x_px, patch.surround.y_px
    height, width = patch.image.shape[:2]
    if x < 0 or y < 0 or y + height > image.shape[0] or x + width > image.shape[1]:
        raise DatasetError(
            f"{patch.surround.path}: {image.shape[1]}x{image.shape[0]} px do not hold the {width}x{height} px of "
            f"{patch.name} at ({x}, {y})"
        )
    left, top = max(0, x - reach[0]), max(0, y - reach[1])
    # A copy, so that what is not wanted goes: PUMA's images are 79 MB each.
    image = image[top : y + height + reach[1], left : x + width + reach[0]].copy()
    x, y = x - left, y - top
    annotated = np.zeros(image.shape[:2], bool)
    annotated[y : y + height, x : x + width] = True if patch.annotated is None else patch.annotated
    xy = patch.xy + np.array([x, y], np.float32)
    return replace(_alone(patch), image=image, annotated=annotated, xy=xy)


def unlabelled_region(name: str, image: NDArray[np.uint8], mpp: float) -> Region:
    """An image of which nothing is known."""
    nowhere = np.zeros(image.shape[:2], bool)
    return Region(name, name, image, mpp, nowhere, np.empty((0, 2), np.float32), np.empty(0, np.int64))


def fingerprint(regions: Sequence[Region]) -> str:
    """Twelve hex digits that change with any pixel, label or name of the regions."""
    digest = sha256()
    for region in regions:
        whole = region.annotated is None
        facts = (region.name, region.case, region.mpp, region.image.shape, len(region.xy), whole)
        digest.update(repr(facts).encode())
        digest.update(np.ascontiguousarray(region.image).data)
        if region.annotated is not None:
            digest.update(np.packbits(region.annotated).tobytes())
        digest.update(region.xy.tobytes() + region.class_ids.tobytes())
    return digest.hexdigest()[:12]
