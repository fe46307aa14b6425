"""One image with classified dots, whatever dataset it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
Labels = Literal["dots", "polygons"]  # of a dataset that publishes both: which are taken
UNKNOWN_CLASS = -1  # of a nucleus that is labelled, but not with a class of the model: it says where, not what


@dataclass(frozen=True)
class Surround:
    """A larger image of the same µm/px that holds a patch.

    Attributes:
        path: its file.
        x_px: where the patch's left edge lies in it.
        y_px: where its top edge lies.
    """

    path: Path
    x_px: int
    y_px: int


@dataclass(frozen=True)
class SlidePlace:
    """Where on a slide a patch was cut.

    Attributes:
        slide_name: of the slide's file, without its ending and perhaps without TCGA's UUID.
        x_level0: left edge, level-0 px.
        y_level0: top edge.
        width_level0: width, level-0 px.
        height_level0: height.
    """

    slide_name: str
    x_level0: float
    y_level0: float
    width_level0: float
    height_level0: float


@dataclass(frozen=True)
class LabelledPatch:
    """One image with its labelled nuclei.

    Attributes:
        name: the image's file name without its ending.
        image: (H, W, 3) uint8 RGB.
        xy: (N, 2) float32 x, y, continuous px of the image: the centre of the top-left pixel is (0.5, 0.5).
        class_ids: (N,) int64, index into `class_names`, or `UNKNOWN_CLASS`.
        class_names: what the ids mean.
        mpp: µm/px of the image, both axes.
        slide_mpp: µm/px of the slide's finest level, where the layout says it.
        surround: what lies around the patch, where the layout has it.
        case: whose tissue it is; empty where only the name may say it.
        annotated: (H, W) bool, where every nucleus is labelled; None for the whole image. Elsewhere nothing is known.
        place: where on its slide it lies, where the layout says it.
    """

    name: str
    image: NDArray[np.uint8]
    xy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    mpp: float
    slide_mpp: float | None = None
    surround: Surround | None = None
    case: str = ""
    annotated: NDArray[np.bool_] | None = None
    place: SlidePlace | None = None
