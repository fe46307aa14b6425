"""What a training view costs: from tiled ROIs in Parquet, against whole JPEGs in one HDF5 file a ROI. One core.

    python -m benchmarks.read_roi_views [--rois N]

It measures
    view     decode 448 px out of a 2048 px ROI against decoding all of it, from a plain JPEG of equal quality
    dataset  open, read and cut views in shuffled order: one view a ROI, and ten (2 of 448 px, 8 of 192 px)
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from skimage.data import immunohistochemistry

from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.image import DEFAULT_QUALITY, RoiImage, encode_roi
from muse_core.roi_dataset.order import shuffled
from muse_core.roi_dataset.write import RoiRow, part_path, write_rois

ROI_PX = 2048
ONE_VIEW = (448,)
TEN_VIEWS = (448,) * 2 + (192,) * 8
Pixels = NDArray[np.uint8]


def tissue(number: int) -> Pixels:
    """2048 px of real tissue at 2 px a source px, mirrored to fill and shifted by `number`."""
    image = cv2.resize(immunohistochemistry(), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    shifted = np.roll(
        np.pad(image, ((0, 1024), (0, 1024), (0, 0)), mode="symmetric"), (67 * number, 131 * number), (0, 1)
    )
    return np.ascontiguousarray(shifted)


def store(folder: Path, count: int) -> None:
    """The same ROIs as a Parquet dataset and as HDF5 files."""

    def rows() -> Iterator[RoiRow]:
        for number in range(count):
            pixels = tissue(number)
            with h5py.File(folder / f"{number}.h5", "w") as file:
                jpeg = imagecodecs.jpeg_encode(pixels, level=DEFAULT_QUALITY, subsampling="444")
                file["patch"] = np.frombuffer(jpeg, np.uint8)
            nuclei = np.random.default_rng(number).random((1300, 3), np.float32) * np.float32(ROI_PX)
            yield RoiRow(
                roi_id=f"drawn_{number:05d}",
                slide_id="drawn",
                case_id="drawn",
                project="BENCH",
                x_level0=0,
                y_level0=0,
                width_level0=ROI_PX,
                height_level0=ROI_PX,
                mpp=0.25,
                width_px=ROI_PX,
                height_px=ROI_PX,
                tissue_fraction=1,
                nuclei=nuclei,
                image=encode_roi(pixels),
            )

    write_rois(part_path(folder, "BENCH", "drawn", 0), rows(), {})


def corners(number: int, sides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Left, top and side of random views, the same for both contestants."""
    rng = np.random.default_rng(number)
    return [(*rng.integers(0, ROI_PX - side + 1, 2).tolist(), side) for side in sides]


def tiled_views(folder: Path, count: int, sides: tuple[int, ...]) -> None:
    for sample in RoiDataset(folder).iterate(seed=0, epoch=0):
        for x, y, side in corners(sample.index, sides):
            sample.image.read(x, y, side, side)


def whole_views(folder: Path, count: int, sides: tuple[int, ...]) -> None:
    for number in shuffled(count, 0, 0).tolist():
        with h5py.File(folder / f"{number}.h5") as file:
            pixels = imagecodecs.jpeg_decode(file["patch"][:].tobytes())
        for x, y, side in corners(number, sides):
            np.ascontiguousarray(pixels[y : y + side, x : x + side])


def milliseconds(work: Callable[[], object], runs: int) -> float:
    """Of one call, the best of three rounds: others share the machine."""
    rounds = []
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(runs):
            work()
        rounds.append(1000 * (time.perf_counter() - begun) / runs)
    return min(rounds)


def decode_times() -> dict[str, float]:
    """Milliseconds of one view and of whole ROIs, from bytes in memory."""
    pixels = tissue(0)
    tiled, jpeg = encode_roi(pixels), imagecodecs.jpeg_encode(pixels, level=DEFAULT_QUALITY, subsampling="444")
    places = iter([place for number in range(400) for place in corners(number, ONE_VIEW)])

    def view() -> None:
        x, y, side = next(places)
        RoiImage(tiled).read(x, y, side, side)

    return {
        "view_ms": milliseconds(view, 100),
        "whole_tiled_ms": milliseconds(lambda: RoiImage(tiled).decode(), 10),
        "whole_jpeg_ms": milliseconds(lambda: imagecodecs.jpeg_decode(jpeg), 10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=int, default=32)
    count = parser.parse_args().rois
    decode = decode_times()
    per_roi = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store(folder, count)
        for label, sides in (("one view", ONE_VIEW), ("ten views", TEN_VIEWS)):
            for kind, views in (("tiled", tiled_views), ("whole", whole_views)):
                per_roi[label, kind] = (
                    milliseconds(lambda views=views, sides=sides: views(folder, count, sides), 1) / count
                )
    for what, key in (("448 px view", "view_ms"), ("whole, tiled", "whole_tiled_ms"), ("whole, JPEG", "whole_jpeg_ms")):
        print(f"{what:14s}{decode[key]:8.2f} ms{decode[key] / decode['view_ms']:8.1f} x the view")
    for label in ("one view", "ten views"):
        ours, hdf5 = per_roi[label, "tiled"], per_roi[label, "whole"]
        print(f"{label:14s}{1000 / ours:8.0f} ROIs/s a core, HDF5 {1000 / hdf5:.0f}:{hdf5 / ours:8.1f} x faster")
    print(
        json.dumps(
            {
                "benchmark": "read_roi_views",
                **decode,
                "whole_over_view": decode["whole_jpeg_ms"] / decode["view_ms"],
                "rois_per_s_one_view": 1000 / per_roi["one view", "tiled"],
                "rois_per_s_ten_views": 1000 / per_roi["ten views", "tiled"],
                "hdf5_over_ours_one_view": per_roi["one view", "whole"] / per_roi["one view", "tiled"],
                "hdf5_over_ours_ten_views": per_roi["ten views", "whole"] / per_roi["ten views", "tiled"],
            }
        )
    )


if __name__ == "__main__":
    main()
