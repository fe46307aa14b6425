"""Time muse infer end to end, with the weights that ship, from a slide to its finished part of the dataset.

    python -m benchmarks.infer [--slide S.svs [--truth S.nuclei.csv --patch_px 920]] [--side PX]

It runs the command itself, so that imports, tissue, reading, network and writing all count, and prints seconds a mm² of
tissue beside the time of the network alone on the same number of pixels. With the true nuclei (x_level0, y_level0,
class_id from 1) of a slide laid out from square patches it also prints F1 over the slide, and over the patches scored
one by one: what is lost by being a slide.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from muse_core.demo import draw_slide
from muse_core.machine import cpu_count
from muse_core.matching import match, pool
from muse_core.nucleus_model import NucleusModel, load_nucleus_model
from muse_core.slide import open_slide

RADIUS_UM = 3.0
NETWORK_PX = 1024
NETWORK_TILES = 8


def infer(slide: Path, out: Path) -> dict[str, Any]:
    """The JSON of the command."""
    command = [sys.executable, "-m", "muse_core.cli", "infer", "--slides", str(slide), "--out", str(out), "--json"]
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall_s = time.perf_counter() - begun
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures | {"wall_seconds_per_mm2": wall_s / figures["tissue_mm2"]}


def network_alone(model: NucleusModel, slide: Path) -> float:
    """Seconds a mm² of the network and nothing else, every core at work on one tile after another."""
    with open_slide(slide) as opened:
        x, y = opened.info.width_level0 / 3, opened.info.height_level0 / 2
        tile = opened.read_region(x, y, NETWORK_PX, NETWORK_PX, mpp=model.mpp)[np.newaxis]
    torch.set_num_threads(cpu_count())
    model.find(tile)
    begun = time.perf_counter()
    for _ in range(NETWORK_TILES):
        model.find(tile)
    return (time.perf_counter() - begun) / (NETWORK_TILES * (NETWORK_PX * model.mpp / 1000) ** 2)


@dataclass(frozen=True)
class Nuclei:
    """Places in µm, scores, and class ids from 0; of one image."""

    xy_um: NDArray[np.float64]
    score: NDArray[np.float32]
    class_ids: NDArray[np.int64]


def f1_scores(pairs: list[tuple[Nuclei, Nuclei]], n_classes: int) -> dict[str, float]:
    """Detection F1 and mean class F1 of found and true nuclei, pooled over images."""
    everyone = pool(match(one.xy_um, one.score, true.xy_um, radius=RADIUS_UM) for one, true in pairs)
    classes = []
    for number in range(n_classes):
        of_class = [(only(one, number), only(true, number)) for one, true in pairs]
        classes.append(pool(match(one.xy_um, one.score, true.xy_um, radius=RADIUS_UM) for one, true in of_class).f1)
    return {"detection_f1": everyone.f1, "mean_class_f1": float(np.mean(classes))}


def only(nuclei: Nuclei, number: int) -> Nuclei:
    """Those of one class."""
    kept = nuclei.class_ids == number
    return Nuclei(nuclei.xy_um[kept], nuclei.score[kept], nuclei.class_ids[kept])


def read_truth(path: Path, mpp: float) -> Nuclei:
    """The true nuclei of a slide."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    return Nuclei(rows[:, :2] * mpp, np.ones(len(rows), np.float32), rows[:, 2].astype(np.int64) - 1)


def read_found(out: Path) -> Nuclei:
    """What the command found."""
    table = pq.read_table(next(out.glob("nuclei/*/*/*.parquet")), partitioning=None)
    xy_um = np.column_stack([table["x_um"], table["y_um"]]).astype(np.float64)
    return Nuclei(xy_um, table["score"].to_numpy(), table["class_id"].to_numpy().astype(np.int64))


def one_by_one(model: NucleusModel, slide: Path, truth: Nuclei, patch_px: int) -> list[tuple[Nuclei, Nuclei]]:
    """Found and true nuclei of each patch of the slide's layout, every patch seen alone."""
    pairs = []
    with open_slide(slide) as opened:
        mpp = opened.info.mpp.x
        side_um, side_px = patch_px * mpp, round(patch_px * mpp / model.mpp)
        for column, row in np.unique((truth.xy_um // side_um).astype(int), axis=0).tolist():
            rgb = opened.read_region(column * patch_px, row * patch_px, side_px, side_px, mpp=model.mpp)
            (found,) = model.find(rgb[np.newaxis])
            xy_um = truth.xy_um - (column * side_um, row * side_um)
            here = ((xy_um >= 0) & (xy_um < side_um)).all(axis=1)
            true = Nuclei(xy_um[here], truth.score[here], truth.class_ids[here])
            ids = found.probabilities.argmax(axis=1)
            pairs.append((Nuclei(found.xy.astype(np.float64) * model.mpp, found.score, ids), true))
    return pairs


def compared(model: NucleusModel, slide: Path, out: Path, truth_file: Path, patch_px: int) -> dict[str, float]:
    """F1 over the slide, and over its patches one by one."""
    with open_slide(slide) as opened:
        truth = read_truth(truth_file, opened.info.mpp.x)
    whole = f1_scores([(read_found(out), truth)], len(model.class_names))
    alone = f1_scores(one_by_one(model, slide, truth, patch_px), len(model.class_names))
    return {f"slide_{name}": value for name, value in whole.items()} | {
        f"patches_{name}": value for name, value in alone.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--truth", type=Path, help="its true nuclei, CSV")
    parser.add_argument("--patch_px", type=int, default=920, help="level-0 side of the patches it is laid out from")
    parser.add_argument("--side", type=int, default=16000, help="level-0 px of the drawn slide")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = arguments.slide or folder / "drawn.svs"
        if not arguments.slide:
            draw_slide(slide, arguments.side, arguments.side)
        figures = infer(slide, folder / "out")
        model = load_nucleus_model(None, device="cpu")
        bound = network_alone(model, slide)
        result = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        result |= {"network_alone_seconds_per_mm2": bound, "over_network_alone": result["seconds_per_mm2"] / bound}
        if arguments.truth:
            result |= compared(model, slide, folder / "out", arguments.truth, arguments.patch_px)
    for key, value in result.items():
        print(f"{key:34s}{value:14.4f}")
    print(json.dumps({"benchmark": "infer", **result}))


if __name__ == "__main__":
    main()
