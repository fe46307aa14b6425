"""Outlines of nuclei as label masks, and the dots in their middles."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import DatasetError


def read_mask(path: Path, size: tuple[int, ...]) -> NDArray[np.int64]:
    """A mask file of whole numbers, one channel, of the size of its image.

    Args:
        path: PNG or TIFF, of any depth.
        size: rows and columns of the image.

    Returns:
        (H, W) int64.

    Raises:
        DatasetError: no such file, not a picture of one channel, or of another size.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DatasetError(f"{path}: no mask ({error.strerror}); is --data the dataset's folder?") from None
    mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if mask is None:
        raise DatasetError(f"{path}: not a mask that can be decoded; PNG or TIFF needed")
    if mask.ndim == 3 and (mask == mask[..., :1]).all():  # grey saved as RGB
        mask = mask[..., 0]
    if mask.shape != tuple(size[:2]):
        raise DatasetError(f"{path}: a mask of shape {mask.shape}; {size[0]}x{size[1]}, as its image, needed")
    return np.asarray(mask, np.int64)


def middles(mask: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The middle of each labelled nucleus.

    Args:
        mask: (H, W), 0 for what is none and another number a nucleus.

    Returns:
        xy: (N, 2) float32 x, y, continuous px: the centre of the top-left pixel is (0.5, 0.5).
        labels: (N,) int64, their numbers in the mask, ascending.
    """
    rows, columns = np.nonzero(mask)
    labels, owner, areas = np.unique(mask[rows, columns], return_inverse=True, return_counts=True)
    sums = [np.bincount(owner, weights=values + 0.5, minlength=len(labels)) for values in (columns, rows)]
    return (np.column_stack(sums) / np.maximum(areas, 1)[:, None]).astype(np.float32), np.asarray(labels, np.int64)
