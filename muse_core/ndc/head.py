"""What is known of an NDC network besides its weights."""

import math
from dataclasses import dataclass, field
from typing import Any

from muse_core.detector.calibration import Calibration
from muse_core.models.ndc_readout import Readout

FORMAT = "muse-ndc-2"  # of checkpoints
# Context around what a window owns. A grid shifted by odd amounts then changes 0.04 and 0.13 % of the nuclei of
# CMU-1-Small-Region (1 and 3 of 2,367), 0.08 % of a drawn slide's; 0.13 and 0.21 % of the first with 112.
MARGIN_UM = 128.0
_COARSEST_STRIDE_PX = 32  # of the backbone's levels
_CLIP = 1e-6


@dataclass(frozen=True)
class NdcHead:
    """What rebuilds an NDC network around its backbone, and how its answers are read.

    Attributes:
        class_names: what the columns of probabilities mean.
        spacing_px: of the proposals.
        hidden: width of the heads.
        kernel: of their first layer.
        dense_hidden: width of the dense head.
        min_distance_um: of two nuclei nearer than this the less sure one goes.
        readout: `heat` or `proposals`, see `models.ndc_readout`.
        calibration: from the chance of a nucleus to the score.
    """

    class_names: tuple[str, ...]
    spacing_px: int = 4
    hidden: int = 128
    kernel: int = 1
    dense_hidden: int = 64
    min_distance_um: float = 3.0
    readout: Readout = "heat"
    calibration: Calibration = field(default_factory=Calibration)


def head_from(values: dict[str, Any]) -> NdcHead:
    """What a file says of a head, as `dataclasses.asdict` gave it.

    Raises:
        KeyError, TypeError: it has other fields.
    """
    others = {name: value for name, value in values.items() if name not in ("calibration", "class_names")}
    return NdcHead(class_names=tuple(values["class_names"]), calibration=Calibration(**values["calibration"]), **others)


def chance_of(calibration: Calibration, score: float) -> float:
    """The chance that is calibrated to a score; a hair less, so that rounding leaves none out."""
    score = min(max(score, _CLIP), 1 - _CLIP)
    at_half = calibration.heat_at_half
    margin = math.log(score / (1 - score)) / calibration.slope + math.log(at_half / (1 - at_half))
    return 1 / (1 + math.exp(-margin)) - _CLIP


def grid_px(head: NdcHead, side_multiple: int = 1) -> int:
    """Images start at multiples of this on a slide, and their sides are multiples of it.

    Args:
        head: of the network.
        side_multiple: what its backbone asks of sides.
    """
    return math.lcm(_COARSEST_STRIDE_PX, side_multiple, head.spacing_px)
