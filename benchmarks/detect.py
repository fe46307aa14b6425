"""Time the shipped detector from an open slide to points, against scikit-image's blob_log on the same tissue.

    python -m benchmarks.detect [--slide S.svs] [--side PX] [--cores N]

It measures seconds a mm² of slide read (the tiles of a grid that hold tissue, with the margin that each one needs):
    decode    reading the tiles at 0.5 µm/px
    network   tiles to heat maps
    rest      finding tissue, heat maps to points, ownership
    total     all of it, one after another; both cores are busy in the network only
and, on the pixels of a few of the same tiles, blob_log on the haematoxylin channel, one tile a core.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from skimage.color import rgb2hed
from skimage.feature import blob_log

from muse_core.demo import draw_slide
from muse_core.geometry import inside
from muse_core.learned_detector import NETWORK_MPP, LearnedDetector
from muse_core.models.heat import find_peaks
from muse_core.slide import Slide, open_slide
from muse_core.tissue import TissueSettings, find_tissue

CORE_PX = 1792  # of the tile that owns its points, at 0.5 µm/px; with its margins 2048 px, 4096 px of a 40x slide
BLOB_LOG_TILES = 4
BLOB_LOG_PX = 512
BLOB_LOG = {"min_sigma": 2.8, "max_sigma": 7.0, "num_sigma": 5, "threshold": 0.02, "overlap": 0.3}  # radii of 2 to 5 µm


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what is done inside under a name."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def detect_slide(slide: Slide, detector: LearnedDetector, clock: Clock) -> tuple[int, float]:
    """Points found, and mm² of the tiles that hold tissue."""
    with clock("rest"):
        corners = tissue_tiles(slide)
    margin = round(detector.margin_um / NETWORK_MPP)
    side = CORE_PX + 2 * margin
    scale = NETWORK_MPP / slide.info.mpp.x
    tiles = slide.read_regions(
        [(x - margin * scale, y - margin * scale) for x, y in corners], side, side, mpp=NETWORK_MPP
    )
    found = 0
    for _ in corners:
        with clock("decode"):
            rgb = next(tiles)
        with clock("network"):
            heat = detector.heat(rgb)
        with clock("rest"):
            peaks = find_peaks(heat, min_heat=0.4, min_distance_px=5)
            found += int(inside(peaks[:, :2] - margin, CORE_PX, CORE_PX).sum())
    return found, len(corners) * (CORE_PX * NETWORK_MPP / 1000) ** 2


def tissue_tiles(slide: Slide) -> list[tuple[float, float]]:
    """Level-0 corners of the grid's tiles that hold tissue."""
    tissue = shapely.unary_union(find_tissue(slide, TissueSettings()).polygons)
    step = CORE_PX * NETWORK_MPP / slide.info.mpp.x
    columns = np.arange(0, slide.info.width_level0, step)
    rows = np.arange(0, slide.info.height_level0, step)
    corners = [(float(x), float(y)) for y in rows for x in columns]
    return [(x, y) for x, y in corners if tissue.intersects(shapely.box(x, y, x + step, y + step))]


def blob_log_seconds_per_mm2(slide: Slide, cores: int) -> float:
    """blob_log on some tissue, one tile a core, decoding left out."""
    x, y = tissue_tiles(slide)[len(tissue_tiles(slide)) // 2]
    step = BLOB_LOG_PX * NETWORK_MPP / slide.info.mpp.x
    corners = [(x + step * (i % 2), y + step * (i // 2)) for i in range(BLOB_LOG_TILES)]
    tiles = [np.array(tile) for tile in slide.read_regions(corners, BLOB_LOG_PX, BLOB_LOG_PX, mpp=NETWORK_MPP)]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(_blobs, [tile[:32, :32] for tile in tiles]))  # imports are not timed
        begun = time.perf_counter()
        list(pool.map(_blobs, tiles))
        seconds = time.perf_counter() - begun
    return seconds / (BLOB_LOG_TILES * (BLOB_LOG_PX * NETWORK_MPP / 1000) ** 2)


def _blobs(tile: NDArray[np.uint8]) -> int:
    return len(blob_log(rgb2hed(tile)[..., 0], **BLOB_LOG))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--side", type=int, default=16000, help="level-0 px of the drawn slide")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.cores)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.slide or Path(folder) / "drawn.svs"
        if not arguments.slide:
            draw_slide(path, arguments.side, arguments.side)
        with open_slide(path) as slide:
            result = measured(slide, arguments.cores)
    for name, value in result.items():
        print(f"{name:32s}{value:12.3f}")
    print(json.dumps(result))


def measured(slide: Slide, cores: int) -> dict[str, float]:
    detector, clock = LearnedDetector(), Clock()
    detector.heat(np.zeros((256, 256, 3), np.uint8))  # the first call prepares kernels
    begun = time.perf_counter()
    found, mm2 = detect_slide(slide, detector, clock)
    total = time.perf_counter() - begun
    other = blob_log_seconds_per_mm2(slide, cores)
    parts = {f"{name}_seconds_per_mm2": seconds / mm2 for name, seconds in sorted(clock.seconds.items())}
    return {
        "mm2": mm2,
        "nuclei": found,
        "seconds_per_mm2": total / mm2,
        **parts,
        "blob_log_seconds_per_mm2": other,
        "times_faster_than_blob_log": other / (total / mm2),
    }


if __name__ == "__main__":
    main()
