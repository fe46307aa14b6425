"""Draw small pyramidal slides with known content, in the layouts that readers meet.

Positions are level-0 px, continuous, the centre of the top-left pixel at (0.5, 0.5). Everything is seeded; a 2000 px
slide takes about a fifth of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

GLASS = (244, 243, 244)
EOSIN = (226, 158, 196)
HAEMATOXYLIN = (92, 62, 138)


@dataclass(frozen=True)
class Drawing:
    """How a slide is stored.

    Attributes:
        mpp: µm/px along x and y to write into the file, or None to leave it out.
        factors: downsample of each level; (1,) for a single level.
        tile_px: side of the square tiles, a multiple of 16.
        quality: JPEG quality.
        broken_tile: column and row of a level-0 tile whose bytes are overwritten, or None.
    """

    mpp: tuple[float, float] | None = (0.25, 0.25)
    factors: tuple[int, ...] = (1, 4, 16)
    tile_px: int = 240
    quality: int = 90
    broken_tile: tuple[int, int] | None = None


def dots_image(width: int, height: int, dots: np.ndarray, *, sigma_px: tuple[float, float] = (6.0, 6.0)) -> np.ndarray:
    """Glass with a dark Gaussian dot at each (x, y) of `dots` (N, 2), sampled at pixel centres: exact at fractions."""
    darkness = np.zeros((height, width), np.float64)
    reach_x, reach_y = int(5 * sigma_px[0]) + 1, int(5 * sigma_px[1]) + 1
    for x, y in np.asarray(dots, np.float64):
        x0, x1 = max(int(x) - reach_x, 0), min(int(x) + reach_x + 1, width)
        y0, y1 = max(int(y) - reach_y, 0), min(int(y) + reach_y + 1, height)
        across = np.exp(-(((np.arange(x0, x1) + 0.5 - x) / sigma_px[0]) ** 2) / 2)
        down = np.exp(-(((np.arange(y0, y1) + 0.5 - y) / sigma_px[1]) ** 2) / 2)
        darkness[y0:y1, x0:x1] += np.outer(down, across)
    ink = np.array(GLASS, np.float64) - (20, 20, 60)
    return np.clip(np.array(GLASS) - darkness[:, :, np.newaxis] * ink + 0.5, 0, 255).astype(np.uint8)


def tissue_image(width: int, height: int, *, mpp: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse of eosin with haematoxylin nuclei on glass.

    Returns:
        (height, width, 3) uint8 RGB, and the nuclei's (N, 2) x, y.
    """
    rng = np.random.default_rng(seed)
    y, x = np.arange(height, dtype=np.float32)[:, np.newaxis], np.arange(width, dtype=np.float32)
    inside = ((x / width - 0.5) / 0.4) ** 2 + ((y / height - 0.5) / 0.42) ** 2 < 1
    coarse = rng.normal(0, 9, (height // 32 + 2, width // 32 + 2)).astype(np.float32)
    cloud = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.empty((height, width, 3), np.float32)
    for top in range(0, height, 256):  # in bands that stay in the processor's cache
        band = slice(top, min(top + 256, height))
        noise = rng.normal(0, 2.5, (band.stop - top, width)).astype(np.float32)
        for channel in range(3):
            ground = np.where(inside[band], EOSIN[channel] + cloud[band], np.float32(GLASS[channel]))
            np.add(ground, noise, out=image[band, :, channel])
    spacing = 14.0 / mpp  # µm between nuclei, about that of a cellular tumour
    columns, rows = np.meshgrid(
        np.arange(spacing, width - spacing, spacing), np.arange(spacing, height - spacing, spacing)
    )
    nuclei = np.stack([columns.ravel(), rows.ravel()], axis=1)
    nuclei += rng.uniform(-spacing / 4, spacing / 4, nuclei.shape)
    nuclei = nuclei[inside[nuclei[:, 1].astype(int), nuclei[:, 0].astype(int)]]
    _draw_nuclei(image, nuclei, radius_px=3.2 / mpp)
    return np.clip(image, 0, 255, out=image).astype(np.uint8), nuclei


def draw_aperio(path: Path, image: np.ndarray, drawing: Drawing = Drawing()) -> Path:
    """An SVS as Aperio scanners write it: JPEG tiles, thumbnail second, µm/px along x in the description."""
    height, width = image.shape[:2]
    description = (
        f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] "
        f"({drawing.tile_px}x{drawing.tile_px}) JPEG/RGB Q={drawing.quality}|AppMag = 40|StripeWidth = 2040"
    )
    if drawing.mpp:
        description += f"|MPP = {drawing.mpp[0]:.6g}"
    levels = _pyramid(image, drawing.factors)
    thumbnail = cv2.resize(image, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(levels[0], description=description, subfiletype=0, **_tiled(drawing))
        tiff.write(thumbnail, description=description, metadata=None, photometric="rgb", compression="jpeg")
        for level in levels[1:]:
            tiff.write(level, description=description, subfiletype=0, **_tiled(drawing))
    return _finish(path, drawing)


def draw_tiff(path: Path, image: np.ndarray, drawing: Drawing = Drawing()) -> Path:
    """A generic tiled pyramidal TIFF; µm/px per axis in the resolution tags."""
    resolution = {}
    if drawing.mpp:
        per_cm = (1e4 / drawing.mpp[0], 1e4 / drawing.mpp[1])
        resolution = {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(_pyramid(image, drawing.factors)):
            tiff.write(level, subfiletype=1 if index else 0, **_tiled(drawing), **resolution)
    return _finish(path, drawing)


def draw_ome(path: Path, image: np.ndarray, drawing: Drawing = Drawing()) -> Path:
    """An OME-TIFF with its lower levels as SubIFDs; µm/px per axis in the XML."""
    metadata: dict[str, object] = {"axes": "YXS"}
    if drawing.mpp:
        metadata |= {"PhysicalSizeX": drawing.mpp[0], "PhysicalSizeY": drawing.mpp[1]}
        metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    levels = _pyramid(image, drawing.factors)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1, **(_tiled(drawing) | {"metadata": metadata}))
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **_tiled(drawing))
    return _finish(path, drawing)


def break_tile(path: Path, tile_x: int, tile_y: int, *, keep_bytes: int = 0) -> None:
    """Overwrite the bytes of one level-0 tile after the first `keep_bytes`, as a bad disk or a bad copy does."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        index = tile_y * -(-page.imagewidth // page.tilewidth) + tile_x
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("rb+") as file:
        file.seek(offset + keep_bytes)
        file.write((bytes(range(256)) * (count // 256 + 1))[: count - keep_bytes])


def _draw_nuclei(image: np.ndarray, nuclei: np.ndarray, radius_px: float) -> None:
    reach = int(radius_px * 1.6) + 2
    for x, y in nuclei:
        x0, y0 = max(int(x) - reach, 0), max(int(y) - reach, 0)
        patch = image[y0 : int(y) + reach, x0 : int(x) + reach]
        rows, columns = np.arange(patch.shape[0])[:, np.newaxis], np.arange(patch.shape[1])
        distance = np.hypot(columns + x0 + 0.5 - x, rows + y0 + 0.5 - y)
        stain = 0.85 / (1 + np.exp((distance - radius_px) / (0.12 * radius_px)))[:, :, np.newaxis]
        patch += stain * (np.array(HAEMATOXYLIN) - patch)


def _pyramid(image: np.ndarray, factors: Sequence[int]) -> list[np.ndarray]:
    """Each level as whole-factor box averages; what is left over at the right and bottom is dropped, as Aperio does."""
    levels = []
    for factor in factors:
        height, width = image.shape[0] // factor, image.shape[1] // factor
        whole = image[: height * factor, : width * factor]
        levels.append(whole if factor == 1 else cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
    return levels


def _tiled(drawing: Drawing) -> dict[str, object]:
    return {
        "tile": (drawing.tile_px, drawing.tile_px),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": drawing.quality},
        "metadata": None,
    }


def _finish(path: Path, drawing: Drawing) -> Path:
    if drawing.broken_tile:
        break_tile(path, *drawing.broken_tile)
    return path
