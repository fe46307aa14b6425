"""muse-nano as it ships, in one command: tissue of many organs to a ROI dataset, and a backbone trained on from it.

    python -m benchmarks.muse_nano --data DIR --out OUT [--start F] [--datasets F.toml] [--unlabelled DIR] [--set ...]

`--datasets` (data_manifests/many_organs.toml) names labelled datasets below `--data`; of them the images that validate
are left out, and the labels are not used: the nuclei are those that the detector that ships finds. `--unlabelled` is
one more folder of images, of `--unlabelled-mpp`. Then `muse pretrain --config muse-nano-wide` runs on all of them, with
a checkpoint each five minutes; the same command goes on where it was stopped. 103 minutes on one CPU core. `--start` is
the backbone that it goes on from: of the weights that ship, what the recipe `muse-nano` gave (docs of the weights).

OUT/rois/...              the dataset
OUT/backbone/...          the run: muse-backbone.safetensors, curves, card
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse_core.detector.detect import detect_image, load_detector
from muse_core.images.decode import read_rgb
from muse_core.labels.datasets import read_datasets, read_datasets_file
from muse_core.roi_dataset.image import encode_roi
from muse_core.roi_dataset.write import RoiRow, part_path, write_rois

DATASETS = Path(__file__).parents[1] / "data_manifests" / "many_organs.toml"
RECIPE = "muse-nano-wide"
LEAST_PX = 300  # a view of 224 px at 0.25 µm/px, from tissue as fine, with room to move

Tissue = tuple[str, str, NDArray[np.uint8], float]  # project, name, (H, W, 3) uint8 RGB, µm/px


def tissue(datasets: Path, data: Path, unlabelled: Path | None, unlabelled_mpp: float) -> Iterator[Tissue]:
    """Every image that may be learned from: those that train, and those without labels."""
    for source in read_datasets(read_datasets_file(datasets), data).sources:
        for region in source.train:
            yield source.name, region.name, region.image, region.mpp
    images = sorted(unlabelled.rglob("*")) if unlabelled else []
    for path in images:
        if path.suffix.lower() in {".png", ".jpg", ".jpeg"}:
            yield "unlabelled", path.stem, read_rgb(path), unlabelled_mpp


def write_dataset(images: Iterator[Tissue], out: Path) -> int:
    """One part a project; how many ROIs there are."""
    detector = load_detector("learned")
    by_project: dict[str, list[RoiRow]] = {}
    for project, name, image, mpp in images:
        height, width = image.shape[:2]
        if min(height, width) * min(1.0, mpp / 0.25) < LEAST_PX:
            continue
        row = RoiRow(
            roi_id=f"{project}_{name}",
            slide_id=name,
            case_id=name,
            project=project,
            x_level0=0.0,
            y_level0=0.0,
            width_level0=float(width),
            height_level0=float(height),
            mpp=mpp,
            width_px=width,
            height_px=height,
            tissue_fraction=None,
            nuclei=detect_image(detector, image, mpp),
            image=encode_roi(image, mpp=mpp),
        )
        by_project.setdefault(project, []).append(row)
    for project, rows in by_project.items():
        write_rois(part_path(out, project, project, 0), rows, {"made_by": "benchmarks.muse_nano"})
    counts = {project: len(rows) for project, rows in by_project.items()}
    print(json.dumps({"rois": counts}), flush=True)
    return sum(counts.values())


def write_whole_dataset(images: Iterator[Tissue], out: Path) -> None:
    """The dataset, under its name only once it is whole: a run that was killed leaves none."""
    begun = out / "rois.part"
    shutil.rmtree(begun, ignore_errors=True)
    if not write_dataset(images, begun):
        sys.exit(f"{out}: no image of {LEAST_PX} px at 0.25 um/px or more to learn from; check --data and --datasets")
    (begun / "rois").rename(out / "rois")
    begun.rmdir()


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--datasets", type=Path, default=DATASETS)
    parser.add_argument("--unlabelled", type=Path)
    parser.add_argument("--unlabelled-mpp", type=float, default=0.25)
    parser.add_argument("--start", type=Path, help="a backbone to go on from; ImageNet's encoder unless given")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value")
    given = parser.parse_args(words)
    if not (given.out / "rois").is_dir():
        write_whole_dataset(tissue(given.datasets, given.data, given.unlabelled, given.unlabelled_mpp), given.out)
    run = ["pretrain", "--rois", str(given.out), "--out", str(given.out / "backbone"), "--config", RECIPE, "--resume"]
    start = [f"backbone.init={given.start}", "backbone.imagenet=false"] if given.start else []
    overrides = [word for one in (*start, *given.overrides) for word in ("--set", one)]
    sys.exit(subprocess.run([sys.executable, "-m", "muse_core.cli", *run, *overrides], check=False).returncode)


if __name__ == "__main__":
    main()
