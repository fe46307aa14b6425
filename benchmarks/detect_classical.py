"""What the classical detector finds and costs: F1 on labelled patches, seconds per mm² against scikit-image's blob_log.

    python -m benchmarks.detect_classical [--data ../shared/data/brca_m2c] [--runs N]

It measures
    F1       on BRCA-M2C's validation patches, MCSpatNet's rule at 6 px, pooled; left out where the patches are absent
    seconds  a mm², median, one thread, image at 0.25 µm/px, the stain already known

blob_log sees the same stain map at the same 0.5 µm/px; its threshold is the best of a list on the very patches that it
is scored on, which favours it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import immunohistochemistry
from skimage.feature import blob_log

from muse_core.detector.classical import ClassicalDetector
from muse_core.detector.detect import Detector, adapted
from muse_core.images.stain import StainMatrix, estimate_stains, separate
from muse_core.labels import LabelledPatch, read_labelled_patches
from muse_core.labels.matching import Counts, match, pool

RADIUS_PX = 6.0
BLOB_LOG_MPP = 0.5
BLOB_LOG_THRESHOLDS = (0.05, 0.08, 0.1, 0.12, 0.15, 0.18, 0.21, 0.25)
BLOB_LOG_SIGMAS_UM = (1.4, 3.5)  # radii of 2 to 5 µm
TIMED_MPP = 0.25


@dataclass(frozen=True)
class BlobLog:
    """scikit-image's multi-scale blob detector on the haematoxylin of a slide."""

    threshold: float
    stains: StainMatrix | None = None

    def __call__(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Find nuclei; see `muse_core.detector.detect.Detector`."""
        scale = mpp / BLOB_LOG_MPP
        image = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
        haematoxylin = np.minimum(separate(image, self.stains or estimate_stains(image))[..., 0], 1)
        low, high = (sigma / BLOB_LOG_MPP for sigma in BLOB_LOG_SIGMAS_UM)
        blobs = blob_log(
            haematoxylin, min_sigma=low, max_sigma=high, num_sigma=5, threshold=self.threshold, overlap=0.3
        )
        return np.column_stack([(blobs[:, 1::-1] + 0.5) / min(scale, 1), np.ones(len(blobs))]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "brca_m2c")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    patches = read_labelled_patches("brca-m2c", arguments.data, "val") if arguments.data.is_dir() else []
    image = mosaic([patch.image for patch in patches] or [immunohistochemistry()] * 4)
    mm2 = image.shape[0] * image.shape[1] * TIMED_MPP**2 / 1e6
    result = {
        "seconds_per_mm2": seconds(adapted(ClassicalDetector(), image.reshape(-1, 3)), image, arguments.runs) / mm2,
        "blob_log_seconds_per_mm2": seconds(BlobLog(0.15, estimate_stains(image)), image, arguments.runs) / mm2,
    }
    result["times_faster"] = result["blob_log_seconds_per_mm2"] / result["seconds_per_mm2"]
    print(f"{'':12s}{'F1':>8s}{'precision':>11s}{'recall':>8s}{'s/mm²':>9s}")
    result |= report("", ClassicalDetector(), patches, result["seconds_per_mm2"])
    result |= report("blob_log_", best_blob_log(patches), patches, result["blob_log_seconds_per_mm2"])
    print(json.dumps(result))


def report(prefix: str, detector: Detector, patches: list[LabelledPatch], seconds_per_mm2: float) -> dict[str, float]:
    """Print one row and return its figures; no F1 without patches."""
    counts = score(detector, patches)
    figures = (counts.f1, counts.precision, counts.recall) if patches else (float("nan"),) * 3
    name = prefix.rstrip("_") or "classical"
    print(f"{name:12s}{figures[0]:8.3f}{figures[1]:11.3f}{figures[2]:8.3f}{seconds_per_mm2:9.3f}")
    return {f"{prefix}f1": counts.f1} if patches else {}


def score(detector: Detector, patches: Iterable[LabelledPatch]) -> Counts:
    matches = []
    for patch in patches:
        nuclei = detector(patch.image, patch.mpp)
        matches.append(match(nuclei[:, :2], nuclei[:, 2], patch.xy, radius=RADIUS_PX, rule="mcspatnet"))
    return pool(matches)


def best_blob_log(patches: list[LabelledPatch]) -> BlobLog:
    return max(map(BlobLog, BLOB_LOG_THRESHOLDS), key=lambda detector: score(detector, patches).f1)


def mosaic(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Four images side by side, brought from 0.5 to 0.25 µm/px: about 2048 px square."""
    side = min(min(image.shape[:2]) for image in images[:4])
    first, second, third, fourth = (image[:side, :side] for image in images[:4])
    whole = np.vstack([np.hstack([first, second]), np.hstack([third, fourth])])
    return np.asarray(cv2.resize(whole, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))


def seconds(detector: Detector, image: NDArray[np.uint8], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        detector(image, TIMED_MPP)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
