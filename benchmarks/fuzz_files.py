"""Damaged files: bits flipped, pieces cut off, zeroed or overwritten, in every kind of file that is read.

    python -m benchmarks.fuzz_files --files 1000

Each file is read in a process that may die of it. Printed a kind: how many were read, refused by a line of our own, or
read with pixels that differ and nobody said so; and what must not be: other exceptions, deaths, runs of over 60 s.
Single bits that change inside JPEG's coded data cannot all be seen: JPEG has no checksum.
"""

import argparse
import importlib
import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

_SIDE = 640
_LONGEST_S = 60.0
_SILENT_GREY_LEVELS = 25.0  # a damage that a person sees: a block of 16 px that differs by so much
_BLOCK_PX = 16


def main() -> None:
    """Damage and read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = _samples(Path(folder))
        outcomes = _run(samples, Path(folder), options.files, options.seed)
    _tell(outcomes)


def _samples(folder: Path) -> dict[str, Path]:
    """One sound file a kind."""
    from muse_core.models import shipped
    from muse_core.roi_dataset.image import encode_roi
    from muse_core.roi_dataset.write import RoiRow, write_rois
    from tests.data.make_dicom import write_level
    from tests.data.make_slides import draw_aperio, draw_ome, draw_tiff, tissue_image

    image = tissue_image(_SIDE, _SIDE, mpp=0.5, seed=4)[0]
    found = {
        "svs": draw_aperio(folder / "a.svs", image),
        "jpeg tiff": draw_tiff(folder / "j.tif", image),
        "ome": draw_ome(folder / "o.ome.tif", image),
        "dicom": write_level(folder / "d.dcm", _SIDE, _SIDE, image=image),
    }
    options = {"photometric": "rgb", "tile": (256, 256), "metadata": None, "resolution": (20000.0, 20000.0)}
    for name, extra in {
        "lzw tiff": {"compression": "lzw"},
        "deflate tiff": {"compression": "deflate", "predictor": 2},
        "plain tiff": {},
    }.items():
        found[name] = folder / f"{name.split()[0]}.tif"
        tifffile.imwrite(found[name], image, **options, resolutionunit="CENTIMETER", **extra)
    for name in ("png", "jpg"):
        found[name] = folder / f"i.{name}"
        Image.fromarray(image).save(found[name])
    rings = [[[10.0, 10.0], [300.0, 10.0], [300.0, 300.0], [10.0, 300.0], [10.0, 10.0]]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": {}}
    found["geojson"] = folder / "t.geojson"
    found["geojson"].write_text(json.dumps({"type": "FeatureCollection", "features": [feature] * 5}))
    found["csv"] = folder / "m.csv"
    lines = [f"S{n},C{n},P,{folder}/a.svs,,," for n in range(20)]
    found["csv"].write_text("\n".join(["slide_id,case_id,project,uri,size,md5,mpp", *lines]) + "\n")
    found["parquet"] = folder / "part-0000.parquet"
    roi = encode_roi(image[:512, :512], mpp=0.5)
    rows = [RoiRow(f"a_{n}", "a", "c", "p", 0, 0, 512, 512, 0.5, 512, 512, 1.0, None, roi) for n in range(3)]
    write_rois(found["parquet"], rows, {"slide_id": "a"})
    found["toml"] = folder / "s.toml"
    found["toml"].write_text("[tissue]\noverview_mpp = 8.0\n[rois]\nrichness_mpp = 8.0\n")
    found["safetensors"] = folder / "w.safetensors"
    found["safetensors"].write_bytes(shipped.NUCLEUS_DETECTOR.read_bytes())
    return found


def _damaged(data: bytes, random: np.random.Generator) -> tuple[str, bytes]:
    """The bytes with one kind of damage, and its name."""
    how = str(random.choice(["bits", "head bits", "cut", "zeros", "noise"]))
    changed = bytearray(data)
    if how == "cut":
        return how, bytes(changed[: int(random.integers(1, len(data)))])
    if how.endswith("bits"):
        end = min(len(data), 4096) if how == "head bits" else len(data)
        for at in random.integers(0, end, int(random.integers(1, 17))):
            changed[at] ^= 1 << int(random.integers(8))
        return how, bytes(changed)
    start = int(random.integers(0, len(data)))
    length = min(int(random.choice([512, 4096])), len(data) - start)
    changed[start : start + length] = bytes(length) if how == "zeros" else random.bytes(length)
    return how, bytes(changed)


def _read_slide(path: Path) -> np.ndarray:
    from muse_core.slide import open_slide

    with open_slide(path, mpp_override=0.5) as slide:
        width, height = slide.info.width_level0, slide.info.height_level0
        slide.thumbnail(200)
        return slide.read_level(0, 0, min(width, _SIDE), min(height, _SIDE))


def _read_other(kind: str, path: Path) -> None:
    from muse_core.build.settings import BuildSettings
    from muse_core.cohort.manifest import read_manifest
    from muse_core.config import load_settings
    from muse_core.geometry import Box
    from muse_core.infer.model import load_nucleus_model
    from muse_core.roi_dataset.dataset import RoiDataset
    from muse_core.slide.info import Level, Mpp, SlideInfo
    from muse_core.tissue import read_tissue

    if kind == "geojson":
        levels = (Level(_SIDE, _SIDE, 1.0, 1.0, 0, 0),)
        read_tissue(path, SlideInfo(path, "", "", "", Mpp(0.5, 0.5, "override"), levels, Box(0, 0, 1, 1), ()))
    elif kind == "csv":
        read_manifest(path)
    elif kind == "toml":
        load_settings(BuildSettings, path, ())
    elif kind == "safetensors":
        load_nucleus_model(path, device="cpu")
    else:
        dataset = RoiDataset(path)
        for index in range(len(dataset)):
            dataset.read(index).image.read(0, 0, 512, 512)


_IMPORTED_FIRST = (
    "torch",
    "timm",
    "muse_core.detector.learned",
    "muse_core.infer.model",
    "muse_core.build.settings",
    "muse_core.tissue",
    "muse_core.slide",
)
_IMAGES = ("svs", "jpeg tiff", "ome", "dicom", "lzw tiff", "deflate tiff", "plain tiff", "png", "jpg")


def _worker(pipe: Connection) -> None:
    """Reads what it is sent, until it dies of it."""
    import os
    import traceback

    from muse_core.errors import MuseError

    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # cuCIM's decoder writes there
        os.dup2(null, descriptor)
    for module in _IMPORTED_FIRST:
        importlib.import_module(module)
    pipe.send("ready")
    while True:
        kind, path = pipe.recv()
        try:
            answer = _read_slide(path) if kind in _IMAGES else _read_other(kind, path)
            pipe.send(("read", answer, ""))
        except MuseError as error:
            pipe.send(("refused", None, str(error)))
        except BaseException as error:  # what this is here to find
            pipe.send(("TRACEBACK", None, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"))


class _Child:
    """A process that reads, started again when it died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = self._context.Pipe()
        self.process = self._context.Process(target=_worker, args=(theirs,), daemon=True)
        self.process.start()
        self.pipe.recv()  # that it is ready: imports take long on a busy machine

    def read(self, kind: str, path: Path) -> tuple[str, Any, str]:
        """The outcome for one file."""
        self.pipe.send((kind, path))
        try:
            if self.pipe.poll(_LONGEST_S):
                outcome: tuple[str, Any, str] = self.pipe.recv()
                return outcome
            outcome = ("HANG", None, "")
        except (EOFError, ConnectionResetError):
            self.process.join()
            outcome = ("DEATH", None, f"exit code {self.process.exitcode}")
        self.process.kill()
        self._start()
        return outcome


def _run(samples: dict[str, Path], folder: Path, files: int, seed: int) -> dict[str, Counter[str]]:
    random, child = np.random.default_rng(seed), _Child()
    sound: dict[str, Any] = {}
    for kind, path in samples.items():
        outcome, answer, words = child.read(kind, path)
        if outcome != "read":
            print(f"{kind}: the sound file itself: {outcome} {words}")
        sound[kind] = answer
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    kinds = list(samples)
    for number in range(files):
        kind = kinds[number % len(kinds)]
        how, data = _damaged(samples[kind].read_bytes(), random)
        path = folder / "damaged" / samples[kind].name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        begun = time.monotonic()
        outcome, answer, words = child.read(kind, path)
        if time.monotonic() - begun > _LONGEST_S:
            outcome = "HANG"
        if outcome == "read" and kind in _IMAGES:
            outcome = _judged(answer, sound[kind])
        outcomes[kind][outcome] += 1
        if outcome.isupper():
            print(f"{outcome}: file {number}, {kind}, {how}: {words}", flush=True)
            kept = Path(tempfile.gettempdir()) / f"fuzz-{number}-{path.name}"
            kept.write_bytes(data)
    return outcomes


def _judged(found: np.ndarray, sound: np.ndarray) -> str:
    if found.shape != sound.shape:
        return "another size"
    difference = np.abs(found.astype(np.int16) - sound).mean(axis=2)
    side = difference.shape[0] // _BLOCK_PX * _BLOCK_PX
    blocks = difference[:side, :side].reshape(side // _BLOCK_PX, _BLOCK_PX, -1, _BLOCK_PX).mean(axis=(1, 3))
    return "silent" if blocks.max() > _SILENT_GREY_LEVELS else "read"


def _tell(outcomes: dict[str, Counter[str]]) -> None:
    names = sorted({name for counts in outcomes.values() for name in counts})
    print(f"{'kind':<14}" + "".join(f"{name:>14}" for name in names))
    for kind, counts in outcomes.items():
        print(f"{kind:<14}" + "".join(f"{counts[name]:>14}" for name in names))
    total: Callable[[str], int] = lambda name: sum(counts[name] for counts in outcomes.values())  # noqa: E731
    print(f"{'all':<14}" + "".join(f"{total(name):>14}" for name in names))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a reading process that ended: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
