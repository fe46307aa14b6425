"""Time muse infer end to end, with the weights that ship, from a slide to its finished part of the dataset.

    python -m benchmarks.infer [--slide S.svs] [--side PX] [--checkpoint F] [--device cuda]

It runs the command itself, so that imports, tissue, reading, network and writing all count, and prints seconds a mm² of
tissue with their shares and the peak of memory, beside the time of the network alone on the same number of pixels.
On a GPU `gpu_use` is the share of time that it was busy, by its driver: the rest it idled.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_core.infer.model import load_nucleus_model
from muse_core.machine.limits import cpu_count
from muse_core.machine.process import own_process
from muse_core.models.nucleus_model import NucleusModel
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; one of scikit-image's tissue is drawn otherwise")
    parser.add_argument("--side", type=int, default=16000, help="level-0 px of the drawn slide")
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = arguments.slide or folder / "drawn.svs"
        if not arguments.slide:
            draw_slide(slide, arguments.side, arguments.side)
        figures = infer(slide, folder / "out", arguments.checkpoint, "--device", arguments.device)
        model = load_nucleus_model(arguments.checkpoint, device=arguments.device)
        bound = network_alone(model, slide)
        result = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        result |= {"network_alone_seconds_per_mm2": bound, "over_network_alone": result["seconds_per_mm2"] / bound}
    for key, value in result.items():
        print(f"{key:34s}{value:14.4f}")
    print(json.dumps({"benchmark": "infer", **result}))


if __name__ == "__main__":
    own_process()
    main()
