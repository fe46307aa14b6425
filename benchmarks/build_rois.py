"""Time a ROI of build-tcga-nu (read, tissue, choice, encode, store; detector off) against two baselines of one run.

    python -m benchmarks.build_rois [--slide S.svs] [--slides N]

    bound   cuCIM's batched decode of the same pixels plus their JPEG encode, each over both cores
    plain   OpenSlide read, resize, one HDF5 file a ROI, JPEG re-encode into a second one, one core: the usual script

Ours is measured twice: with the slide's compressed tiles copied where a ROI lies on their grid, and all encoded.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import h5py
import numpy as np
import openslide
import pyarrow.parquet as pq
from cucim import CuImage
from PIL import Image

from muse_core.build.run import BuildOptions, open_build
from muse_core.build.settings import BuildSettings
from muse_core.cohort.manifest import read_manifest
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.run import do_all
from muse_core.config import load_settings
from muse_core.machine.process import own_process
from muse_core.roi_dataset.image import encode_roi
from muse_core.slide.drawn import draw_slide

CORES = 2
Boxes = list[tuple[int, int, int, int]]  # x, y, width, height, level-0 px


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def build(folder: Path, slide: Path, n_slides: int, *, copy_tiles: bool) -> tuple[float, Boxes]:
    """Seconds of building a cohort, from workers that have imported nothing yet, and the ROIs it chose."""
    out = folder / f"out-copy-{copy_tiles}"
    manifest = folder / "manifest.csv"
    rows = "".join(f"bench{number},case,BENCH,{slide}\n" for number in range(n_slides))
    manifest.write_text("slide_id,case_id,project,uri\n" + rows)
    overrides = ["detector=none", "contact_sheets=false", "rois.max_per_slide=64"]
    settings = load_settings(BuildSettings, None, [*overrides, f"image.copy_tiles={str(copy_tiles).lower()}"])
    checked = read_manifest(manifest)
    with open_build(BuildOptions(out=out, workers=CORES), settings) as run:
        records: list[SlideRecord] = []
        taken = seconds(lambda: records.extend(do_all(run, checked.rows, run.do_slide)))
    assert all(record.status == "done" for record in records)
    columns = ["x_level0", "y_level0", "width_level0", "height_level0"]
    tables = [pq.read_table(part, columns=columns) for part in out.glob("rois/*/*.parquet")]
    return taken, [tuple(int(value) for value in row.values()) for table in tables for row in table.to_pylist()]


def bound(slide: Path, boxes: Boxes, settings: BuildSettings) -> tuple[float, float]:
    """Seconds of decoding and of encoding the ROIs, each over both cores."""
    image = CuImage(str(slide))
    width, height = boxes[0][2:]
    locations = [(x, y) for x, y, *_ in boxes]
    pixels: list[np.ndarray] = []

    def decode() -> None:
        for batch in image.read_region(locations, (width, height), num_workers=CORES, batch_size=1):
            pixels.append(np.array(batch).reshape(height, width, 3)) if len(pixels) < 16 else np.asarray(batch)

    decoding = seconds(decode)
    with ThreadPoolExecutor(CORES) as pool:
        chosen = settings.image

        def encode(rgb: np.ndarray) -> bytes:
            return encode_roi(rgb, quality=chosen.quality, subsampling=chosen.subsampling, tile_px=chosen.tile_px)

        encoding = seconds(lambda: list(pool.map(encode, pixels))) * len(boxes) / len(pixels)
    return decoding, encoding


def plain_chain(folder: Path, slide: Path, boxes: Boxes) -> float:
    """Seconds of the usual script on one core."""
    source = openslide.OpenSlide(str(slide))

    def chain() -> None:
        for number, (x, y, width, height) in enumerate(boxes):
            rgb = np.asarray(source.read_region((x, y), 0, (width, height)).convert("RGB"))
            rgb = cv2.resize(rgb, (2048, 2048))
            with h5py.File(folder / f"{number}.h5", "w") as file:
                file["patch"] = rgb
            with h5py.File(folder / f"{number}.h5") as file:
                stream = io.BytesIO()
                Image.fromarray(file["patch"][:]).save(stream, "JPEG", quality=75)
            with h5py.File(folder / f"{number}-jpeg.h5", "w") as file:
                file["patch"] = np.frombuffer(stream.getvalue(), np.uint8)

    return seconds(chain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="an Aperio slide at 0.25 µm/px; default draws one of 20,000 px")
    parser.add_argument("--slides", type=int, default=4, help="how often the slide stands in the manifest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = args.slide or folder / "drawn.svs"
        if args.slide is None:
            draw_slide(slide, 20_000, 20_000)
        slide = slide.absolute()
        copied, boxes = build(folder, slide, args.slides, copy_tiles=True)
        encoded, boxes = build(folder, slide, args.slides, copy_tiles=False)
        decoding, encoding = bound(slide, boxes, BuildSettings())
        plain = plain_chain(folder, slide, boxes[:16]) * len(boxes) / min(16, len(boxes))
    ms = {
        name: 1000 * value / len(boxes)
        for name, value in {
            "copied": copied,
            "encoded": encoded,
            "bound": decoding + encoding,
            "bound_decode": decoding,
            "bound_encode": encoding,
            "plain": plain,
        }.items()
    }
    for name, value in ms.items():
        print(
            f"{name:14s}{value:8.1f} ms a ROI{value / ms['bound']:8.2f} x bound"
            f"{ms['plain'] / value:8.1f} x faster than plain"
        )
    print(
        json.dumps(
            {
                "benchmark": "build_rois",
                "rois": len(boxes),
                "cores": CORES,
                "ms_per_roi": ms,
                "copied_over_bound": copied / (decoding + encoding),
                "encoded_over_bound": encoded / (decoding + encoding),
                "plain_over_copied": plain / copied,
                "plain_over_encoded": plain / encoded,
            }
        )
    )


if __name__ == "__main__":
    own_process()
    main()
