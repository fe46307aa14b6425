"""Time muse infer end to end, with the weights that ship, from a slide to its finished part of the dataset.

    python -m benchmarks.infer [--slide S.svs] [--side PX] [--checkpoint F] [--device cuda] [--engines auto torch]

It runs the command itself, so that imports, tissue, reading, network and writing all count, and prints seconds a mm² of
tissue, how often each px of tissue was seen (`redundancy`), shares of the time and the peak of memory. Beside it, in
one run: the unit of the machine, which is the plain float32 forward of timm's `tf_efficientnet_lite0` features, as
timm makes it, on as many pixels and as many cores; and the network alone on them. Of several engines each is run in
turn. On a GPU `gpu_use` is the share of time that it was busy, by its driver: the rest it idled.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from muse_core.infer.model import Wanted, load_nucleus_model, resolve_engine
from muse_core.machine.limits import cpu_count
from muse_core.machine.process import own_process
from muse_core.models.backbone import standardised
from muse_core.models.nucleus_model import NETWORK_MPP
from muse_core.models.quantised import int8_pays
from muse_core.slide import open_slide
from muse_core.slide.drawn import draw_slide

NETWORK_PX = 1024
NETWORK_TILES = 8


def infer(slide: Path, out: Path, checkpoint: Path | None, *options: str) -> dict[str, Any]:
    """The JSON of the command."""
    command = [sys.executable, "-m", "muse_core.cli", "infer", "--slides", str(slide), "--out", str(out), "--json"]
    command += [*options, *(("--checkpoint", str(checkpoint)) if checkpoint else ())]
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall_s = time.perf_counter() - begun
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures | {"wall_seconds_per_mm2": wall_s / figures["tissue_mm2"]}


def tile_of(slide: Path) -> NDArray[np.uint8]:
    """(1, H, W, 3) of tissue at 0.5 um/px."""
    with open_slide(slide) as opened:
        x, y = opened.info.width_level0 / 3, opened.info.height_level0 / 2
        return opened.read_region(x, y, NETWORK_PX, NETWORK_PX, mpp=NETWORK_MPP)[np.newaxis]


def seconds_per_mm2(work: Callable[[], object]) -> float:
    """Of something done to a tile; the median, for other processes get in the way."""
    work()
    times = []
    for _ in range(NETWORK_TILES):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) / (NETWORK_PX * NETWORK_MPP / 1000) ** 2


@torch.inference_mode()
def unit_of_machine(tile: NDArray[np.uint8], device: str) -> float:
    """Seconds a mm² of the plain float32 forward of EfficientNet-Lite0's features."""
    net = timm.create_model("tf_efficientnet_lite0", features_only=True).eval().to(device)
    images = standardised(torch.from_numpy(tile).permute(0, 3, 1, 2)).contiguous().to(device)
    torch.set_num_threads(cpu_count())

    def forward() -> None:
        net(images)
        if device != "cpu":
            torch.cuda.synchronize()

    return seconds_per_mm2(forward)


def network_alone(tile: NDArray[np.uint8], checkpoint: Path | None, device: str, wanted: Wanted) -> float:
    """Seconds a mm² of the network and the reading of its answers, every core at work on one tile after another."""
    engine = resolve_engine(wanted, checkpoint, device=device)
    torch.set_num_threads(cpu_count())
    model = load_nucleus_model(checkpoint, device=device, min_score=0.5, engine=engine, threads=cpu_count())
    return seconds_per_mm2(lambda: model.find(tile))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--side", type=int, default=16000, help="level-0 px of the drawn slide")
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--engines", nargs="+", default=["auto"], help="auto, torch, openvino")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="a setting of muse infer")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = arguments.slide or folder / "drawn.svs"
        if not arguments.slide:
            draw_slide(slide, arguments.side, arguments.side)
        tile = tile_of(slide)
        unit = unit_of_machine(tile, arguments.device)
        for engine in arguments.engines:
            options = ["--device", arguments.device, "--set", f"engine={engine}"]
            options += [word for one in arguments.overrides for word in ("--set", one)]
            figures = infer(slide, folder / f"out-{engine}", arguments.checkpoint, *options)
            alone = network_alone(tile, arguments.checkpoint, arguments.device, engine)
            rows[engine] = {key: value for key, value in figures.items() if isinstance(value, int | float)}
            rows[engine] |= {"unit_seconds_per_mm2": unit, "over_unit": rows[engine]["seconds_per_mm2"] / unit}
            rows[engine] |= {"network_alone_seconds_per_mm2": alone, "network_alone_over_unit": alone / unit}
            rows[engine]["over_network_alone"] = rows[engine]["seconds_per_mm2"] / alone
    print(f"{cpu_count()} cores; of int8: {int8_pays() or 'no instructions'}")
    print(f"{'':34s}" + "".join(f"{engine:>14}" for engine in rows))
    for key in next(iter(rows.values())):
        print(f"{key:34s}" + "".join(f"{row.get(key, float('nan')):14.4f}" for row in rows.values()))
    print(json.dumps({"benchmark": "infer", "cores": cpu_count(), "int8": int8_pays(), "engines": rows}))


if __name__ == "__main__":
    own_process()
    main()
