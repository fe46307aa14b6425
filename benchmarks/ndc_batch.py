"""What preparing a batch of fine-tuning costs: PUMA-like regions, samples of the paper's 1024 px.

    python -m benchmarks.ndc_batch

Regions are images of 5120 px at 0.25 µm/px whose middle 1024 px are annotated, as PUMA's context images. A batch of 8
samples of 1024 px is drawn with its dense targets: on one thread, on as many as there are cores, and, for comparison,
with the whole image blurred and turned for each sample instead of the part that it shows. Seconds by the clock, the
least of some rounds; the ratios are what holds elsewhere.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from muse_core.detector import augment
from muse_core.labels.regions import Region
from muse_core.machine.limits import cpu_count
from muse_core.ndc import samples
from muse_core.ndc.batch import batch_of_step
from muse_core.ndc.settings import FinetuneSettings

CONTEXT_PX, ROI_PX, NUCLEI = 5120, 1024, 500
ROUNDS = 3


def region(seed: int) -> Region:
    """Noise that is as costly as tissue, with nuclei in its middle."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(90, 250, (640, 640, 3), np.uint8), (CONTEXT_PX, CONTEXT_PX))
    annotated = np.zeros((CONTEXT_PX, CONTEXT_PX), bool)
    first = (CONTEXT_PX - ROI_PX) // 2
    annotated[first : first + ROI_PX, first : first + ROI_PX] = True
    xy = rng.uniform(first, first + ROI_PX, (NUCLEI, 2)).astype(np.float32)
    return Region(f"r{seed}", f"c{seed}", image, 0.25, annotated, xy, rng.integers(0, 3, NUCLEI))


def seconds(draw: Callable[[int], object]) -> float:
    """Of a batch, the least of some."""
    spent = []
    for step in range(ROUNDS):
        begun = time.perf_counter()
        draw(step)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def main() -> None:
    cv2.setNumThreads(1)
    regions = [region(seed) for seed in range(2)]
    settings = FinetuneSettings(side_px=1024, batch_size=8, mosaic_share=0.0)
    threads = cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        figures = {
            "one_thread_s": seconds(lambda step: batch_of_step(regions, [], step, settings)),
            f"{threads}_threads_s": seconds(lambda step: batch_of_step(regions, [], step, settings, drawers=pool)),
        }
    everything = (slice(None), slice(None)), np.zeros(2, np.int64)
    samples.shown_part = lambda centre, scale, side_px: everything  # type: ignore[assignment]
    figures["whole_image_s"] = seconds(lambda step: batch_of_step(regions, [], step, settings))
    samples.shown_part = augment.shown_part
    for name, value in figures.items():
        print(f"{name:18s}{value:8.2f} s a batch of {settings.batch_size}{value / figures['one_thread_s']:8.2f} x")
    print(json.dumps({"benchmark": "ndc_batch", **figures}))


if __name__ == "__main__":
    main()
