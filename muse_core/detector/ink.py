"""Points that lie on a pathologist's ink."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_INK_GREEN = 25  # of 255, by which green exceeds red on ink


def on_ink(rgb: "NDArray[np.uint8] | Tensor", points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which points (N, 2 or more; x, y in px) of an image lie on green or cyan: ink, no nucleus of common stains.

    Haematoxylin takes green light away first, or, as a blue counterstain, red light but still more green than blue.

    Args:
        rgb: (H, W, 3) uint8; on any device, from where only what lies around the points is fetched.
        points: in the image.
    """
    reach = np.arange(-2, 3)
    height, width = rgb.shape[:2]
    x, y = (points[:, axis].astype(np.int64)[:, None] + reach for axis in (0, 1))
    rows, columns = y.clip(0, height - 1)[:, :, None], x.clip(0, width - 1)[:, None, :]
    around = rgb[rows, columns]  # (N, 5, 5, 3); a tensor takes numpy's indices, too
    if not isinstance(around, np.ndarray):
        around = around.cpu().numpy()
    red, green, blue = around.mean(axis=(1, 2), dtype=np.float32).T
    return np.asarray((green - red > _INK_GREEN) & (green - red > 0.6 * (blue - red)))
