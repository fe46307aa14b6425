"""Density maps: nuclei per mm² of tissue around each place, as small pictures in the colour of the class."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from muse_core.nuclei_dataset import rgb
from muse_core.report.settings import ReportSettings
from muse_core.report.view import View

_FINER = 4  # points along a cell's side by which its share of tissue is found
_LEAST_TISSUE = 0.05  # share of a cell below which it is not shown
_BEYOND = 2.0  # cells by which smoothing is wider outside tissue, so that the outline cuts through colour
_NARROWEST = 0.3  # cells; a narrower Gaussian changes nothing
_DARKEST = 0.45  # of the class's colour, at the top of the scale: lightness falls all the way


@dataclass(frozen=True)
class DensityMap:
    """One class's density.

    Attributes:
        png: the picture; outside tissue it shows what is nearest, for the page cuts it along the outline.
        most_per_mm2: what the darkest colour stands for.
    """

    png: bytes
    most_per_mm2: float


def density_maps(
    grid: NDArray[np.float32], colours: list[str], view: View, settings: ReportSettings
) -> list[DensityMap]:
    """A map a class.

    Args:
        grid: (C, rows, columns) nuclei in each cell.
        colours: `#rrggbb` of each class.
        view: where the grid lies, and the tissue.
        settings: smoothing.
    """
    _, rows, columns = grid.shape
    cell_um = view.box_um.width / columns
    cell_mm2 = view.box_um.width * view.box_um.height / (rows * columns) / 1e6
    tissue = _tissue_share(view, (rows, columns)) if view.tissue_um is not None else _where_nuclei_are(grid)
    sigma = settings.map_smoothing_um / cell_um
    shown = tissue > _LEAST_TISSUE
    maps = []
    for counts, colour in zip(grid, colours, strict=True):
        near, far = (_ratio(counts, tissue * cell_mm2, one) for one in (sigma, sigma + _BEYOND))
        density = np.where(shown, near, far)
        most = _round_up(float(np.percentile(density[shown], 99.5)) if shown.any() else 0.0)
        maps.append(DensityMap(_painted(density / most, colour), most))
    return maps


def ramp(colour: str, levels: int = 256) -> NDArray[np.uint8]:
    """(levels, 3) uint8: from near white through a class's colour to a dark shade of it."""
    white, full = np.array([247, 247, 247]), np.array(rgb(colour))
    stops = np.array([white, white + 0.75 * (full - white), _DARKEST * full])
    at = np.linspace(0, 1, levels)
    return np.stack([np.interp(at, (0, 0.55, 1), stops[:, channel]) for channel in range(3)], axis=1).astype(np.uint8)


def _painted(density: NDArray[np.floating], colour: str) -> bytes:
    """A PNG of densities 0..1."""
    levels = (np.clip(density, 0, 1) * 255).astype(int)
    stream = io.BytesIO()
    Image.fromarray(ramp(colour)[levels]).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _tissue_share(view: View, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Of each cell the share that is tissue, by a square of points in it: filled polygons would hold their rims too."""
    rows, columns = shape
    x = view.box_um.x + view.box_um.width * (np.arange(columns * _FINER) + 0.5) / (columns * _FINER)
    y = view.box_um.y + view.box_um.height * (np.arange(rows * _FINER) + 0.5) / (rows * _FINER)
    shapely.prepare(view.tissue_um)
    inside = shapely.contains_xy(view.tissue_um, *np.meshgrid(x, y))
    # (rows * f, columns * f) -> (rows, f, columns, f) -> (rows, columns)
    return np.asarray(inside.reshape(rows, _FINER, columns, _FINER).mean(axis=(1, 3)), np.float32)


def _where_nuclei_are(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    there = (grid.sum(axis=0) > 0).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(there, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), np.float32)


def _ratio(counts: NDArray[np.float32], area: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Nuclei around each cell over the tissue around it: edges are not thinned out by the glass beside them."""
    return np.asarray(_smoothed(counts, sigma) / np.maximum(_smoothed(area, sigma), 1e-9), np.float32)


def _smoothed(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    if sigma < _NARROWEST:
        return values
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT), np.float32)


def _round_up(value: float) -> float:
    """To two leading digits; at least 1."""
    if value <= 1:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / unit - 0.01) * unit)  # rounding errors do not count
