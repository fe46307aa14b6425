"""Time the shipped detector over a slide, by the command that users run, against scikit-image's blob_log.

    python -m benchmarks.detect [--slide S.svs] [--side PX] [--cores N]

`muse infer` runs with the detector's weights and its own settings: tissue, reading, network, ink, calibration and
writing all count. Everything is told per mm² of tissue, with the shares of the time and the peak of memory, beside
blob_log on the haematoxylin channel of tissue of the same slide, one tile a core, its reading and imports left out.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.color import rgb2hed
from skimage.feature import blob_log

from benchmarks.infer import infer
from muse_core.machine.process import own_process
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.slide import Slide, open_slide
from muse_core.slide.drawn import draw_slide
from muse_core.tissue import TissueSettings, find_tissue

BLOB_LOG_TILES = 2  # along each side
BLOB_LOG_PX = 512
BLOB_LOG = {"min_sigma": 2.8, "max_sigma": 7.0, "num_sigma": 5, "threshold": 0.02, "overlap": 0.3}  # radii of 2 to 5 µm


def blob_log_seconds_per_mm2(slide: Slide, cores: int) -> float:
    """blob_log on some tissue: seconds a mm² of tissue in its tiles, whose glass it sees, too."""
    corners, tissue_mm2 = tissue_tiles(slide)
    tiles = [np.array(tile) for tile in slide.read_regions(corners, BLOB_LOG_PX, BLOB_LOG_PX, mpp=NETWORK_MPP)]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(_blobs, [tile[:32, :32] for tile in tiles]))  # imports are not timed
        begun = time.perf_counter()
        list(pool.map(_blobs, tiles))
        return (time.perf_counter() - begun) / tissue_mm2


def tissue_tiles(slide: Slide) -> tuple[list[tuple[float, float]], float]:
    """Level-0 corners of tiles side by side in the midst of tissue, and their tissue in mm²."""
    mpp = slide.info.mpp
    tissue = shapely.unary_union(find_tissue(slide, TissueSettings()).polygons)
    middle, step = tissue.representative_point(), BLOB_LOG_PX * NETWORK_MPP / mpp.x
    left, top = (place - step * BLOB_LOG_TILES / 2 for place in (middle.x, middle.y))
    corners = [
        (left + step * column, top + step * row) for row in range(BLOB_LOG_TILES) for column in range(BLOB_LOG_TILES)
    ]
    seen = shapely.box(left, top, left + step * BLOB_LOG_TILES, top + step * BLOB_LOG_TILES)
    return corners, tissue.intersection(seen).area * mpp.x * mpp.y * 1e-6


def _blobs(tile: NDArray[np.uint8]) -> int:
    return len(blob_log(rgb2hed(tile)[..., 0], **BLOB_LOG))


def measured(path: Path, folder: Path, cores: int) -> dict[str, float]:
    """The figures of the command and of blob_log, and their ratio."""
    figures = infer(path, folder / "out", NUCLEUS_DETECTOR, "--device", "cpu")
    with open_slide(path) as slide:
        other = blob_log_seconds_per_mm2(slide, cores)
    return {key: value for key, value in figures.items() if isinstance(value, int | float)} | {
        "blob_log_seconds_per_mm2": other,
        "times_faster_than_blob_log": other / figures["seconds_per_mm2"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--side", type=int, default=16000, help="level-0 px of the drawn slide")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # processes started from here, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arguments.slide or folder / "drawn.svs"
        if not arguments.slide:
            draw_slide(path, arguments.side, arguments.side)
        result = measured(path, folder, arguments.cores)
    for key, value in result.items():
        print(f"{key:32s}{value:12.3f}")
    print(json.dumps({"benchmark": "detect", **result}))


if __name__ == "__main__":
    own_process()
    main()
