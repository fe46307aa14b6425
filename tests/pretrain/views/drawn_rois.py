"""Drawn ROIs whose nuclei are soft dots at fractions of a pixel, each in a colour that tells its row number."""

import numpy as np

from muse_core.roi_dataset.dataset import RoiSample
from muse_core.roi_dataset.image import RoiImage, encode_roi
from muse_core.roi_dataset.write import RoiRow, part_path, write_rois

GROUND = np.array([230.0, 225.0, 235.0])
DOT_SIGMA_PX = 3.0
_PALETTE = (
    (20, 20, 160),
    (160, 20, 20),
    (20, 130, 20),
    (120, 20, 130),
    (20, 120, 130),
    (130, 110, 10),
    (30, 30, 30),
)


def colours(count):
    """(N, 3) dark colours, far from one another and from the ground."""
    palette = [
        (20, 20, 160),
        (160, 20, 20),
        (20, 130, 20),
        (120, 20, 130),
        (20, 120, 130),
        (130, 110, 10),
        (30, 30, 30),
    ]
    return np.array([palette[row % len(palette)] for row in range(count)], np.float64).reshape(-1, 3)


def scattered(count, width, height, rng, *, apart_px=26.0):
    """(N, 2) random points that keep their distance."""
    points = []
    while len(points) < count:
        point = rng.uniform(0, (width, height))
        if all(np.hypot(*(point - other)) > apart_px for other in points):
            points.append(point)
    return np.array(points).reshape(-1, 2)


def draw(width, height, xy, sigma_px=DOT_SIGMA_PX):
    """(H, W, 3) uint8: pixel (i, j) has its centre at (j + 0.5, i + 0.5)."""
    pixels = np.tile(GROUND, (height, width, 1))
    rows, columns = np.mgrid[:height, :width] + 0.5
    for (x, y), colour in zip(xy, colours(len(xy)), strict=True):
        dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma_px**2))[..., None]
        pixels = pixels * (1 - dot) + colour * dot
    return np.round(pixels).astype(np.uint8)


def roi_sample(width, height, xy, *, mpp=0.25, index=0, tile_px=64, sigma_px=DOT_SIGMA_PX):
    nuclei = np.column_stack([xy, np.ones(len(xy))]).astype(np.float32).reshape(-1, 3)
    image = RoiImage(encode_roi(draw(width, height, xy, sigma_px), quality=100, tile_px=tile_px))
    return RoiSample(
        index=index, roi_id=f"drawn_{index}", slide_id="drawn", project="P", mpp=mpp, image=image, nuclei=nuclei
    )


def roi_row(number, *, side=160, n_nuclei=8, mpp=0.25, image=None, nuclei=True):
    xy = scattered(n_nuclei, side, side, np.random.default_rng(number))
    return RoiRow(
        roi_id=f"drawn_{number:05d}",
        slide_id=f"slide_{number % 3}",
        case_id="case",
        project="P",
        x_level0=0,
        y_level0=0,
        width_level0=side,
        height_level0=side,
        mpp=mpp,
        width_px=side,
        height_px=side,
        tissue_fraction=1.0,
        nuclei=np.column_stack([xy, np.ones(n_nuclei)]).astype(np.float32) if nuclei else None,
        image=image or encode_roi(draw(side, side, xy), tile_px=64),
    )


def write_dataset(out, rows):
    write_rois(part_path(out, "P", "drawn", 0), iter(rows), {})
    return out


def dot_centre(view, xy, ground=GROUND, *, reach_px=7):
    """Darkness-weighted centre, in continuous view px, of the dot near `xy`."""
    darkness = np.clip(np.median(ground) - view.astype(np.float64).mean(axis=2) - 12, 0, None)
    left, top = (np.floor(xy).astype(int) - reach_px).tolist()
    rows, columns = np.mgrid[top : top + 2 * reach_px + 1, left : left + 2 * reach_px + 1]
    weight = darkness[rows, columns]
    assert weight.sum() > 0, "no dot where the nucleus should be"
    return np.array([((columns + 0.5) * weight).sum(), ((rows + 0.5) * weight).sum()]) / weight.sum()
