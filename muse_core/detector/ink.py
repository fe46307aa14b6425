"""Points that lie on a pathologist's ink."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INK_GREEN = 25  # of 255, by which green exceeds red on ink


def on_ink(rgb: NDArray[np.uint8] | Tensor, points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which points (N, 2 or more; x, y in px) of an image lie on green or cyan: ink, no nucleus of common stains.

    Haematoxylin takes green light away first, or, as a blue counterstain, red light but still more green than blue.

    Args:
        rgb: (H, W, 3) uint8; on any device, from where only what lies around the points is fetched.
        points: in the image.
    """
    image = rgb if isinstance(rgb, Tensor) else torch.from_numpy(np.ascontiguousarray(rgb))
    reach = torch.arange(-2, 3)
    x, y = (torch.from_numpy(points[:, axis].astype(np.int64))[:, None] + reach for axis in (0, 1))
    rows, columns = y.clamp(0, image.shape[0] - 1), x.clamp(0, image.shape[1] - 1)
    around = image[rows[:, :, None].to(image.device), columns[:, None, :].to(image.device)]  # (N, 5, 5, 3)
    red, green, blue = around.float().mean(dim=(1, 2)).T.cpu().numpy()
    return np.asarray((green - red > _INK_GREEN) & (green - red > 0.6 * (blue - red)))
