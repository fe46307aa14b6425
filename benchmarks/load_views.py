"""What the views of a ROI cost: ROIs/s a core from a built dataset, against the usual ways in the same run.

    python -m benchmarks.load_views [--rois DIR] [--images-per-s 500 1000 2000]

A slide is drawn and built (`muse build-tcga-nu`, classical detector), and its ROIs of 2048 px are turned into 2 + 8
views. All chains cut the same views, the first three with the same pixels but for what JPEG changed:

    ours       one row of the dataset a ROI, only the tiles under its views decoded, each once
    per view   the row and its tiles read anew for every view, as where a sample is a view
    whole      the ROI as one JPEG in memory, all of it decoded, the views cut from it
    script     the same JPEG through Pillow and torchvision: crop, resize, colour jitter, blur, the usual chain of DINO

Times are CPU time of one process, the best of three epochs, so that others on the machine count little. At the end: how
many loader cores keep a GPU busy whose step takes so many images a second, an image being a ROI with all its views.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import ColorJitter

from muse_core.pretrain.views.augment import augmented
from muse_core.pretrain.views.batch import view_batch
from muse_core.pretrain.views.cut import cut_view
from muse_core.pretrain.views.loader import ViewLoader
from muse_core.pretrain.views.placement import RoiFrame, ViewPlace, place_views
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.roi_dataset.dataset import RoiDataset, RoiSample
from muse_core.roi_dataset.image import DEFAULT_QUALITY, RoiImage
from muse_core.slide.drawn import draw_slide

SLIDE_PX = 12288  # about 20 ROIs
BATCH = 8
ROUNDS = 3
SMALL = ViewSettings()
LARGE = ViewSettings(global_px=512, local_px=208)
Epoch = Callable[[int], object]  # one epoch, by its number


def build(folder: Path) -> Path:
    """A ROI dataset of a drawn slide, as the command makes it."""
    slide, manifest, out = folder / "slide.svs", folder / "manifest.csv", folder / "out"
    draw_slide(slide, SLIDE_PX, SLIDE_PX)
    manifest.write_text(f"slide_id,case_id,project,uri\nbench,case,BENCH,{slide}\n")
    command = [sys.executable, "-m", "muse_core.cli", "build-tcga-nu", "--manifest", str(manifest), "--out", str(out)]
    choices = ["detector=classical", "contact_sheets=false", "rois.max_per_slide=64"]
    overrides = [part for choice in choices for part in ("--set", choice)]
    subprocess.run([*command, "--workers", "2", *overrides], check=True, stdout=subprocess.DEVNULL)
    return out


def cpu_ms(chain: Epoch, count: int) -> float:
    """CPU milliseconds a ROI, the best of some epochs."""
    best = float("inf")
    for number in range(ROUNDS):
        begun = time.process_time()
        chain(number)
        best = min(best, 1000 * (time.process_time() - begun) / count)
    return best


def places_of(sample: RoiSample, settings: ViewSettings, epoch: int) -> tuple[ViewPlace, ...]:
    """Where `view_batch` would put the views."""
    frame = RoiFrame(*sample.image.size, sample.mpp)
    return place_views(frame, sample.nuclei[:, :2], settings, np.random.default_rng([0, epoch, sample.index, 0]))


def ours(dataset: RoiDataset, settings: ViewSettings) -> Epoch:
    loader = ViewLoader(dataset, settings, batch_size=1, seed=0)
    return lambda epoch: sum(len(batch) for batch in loader.batches(epoch))


def per_view(dataset: RoiDataset, settings: ViewSettings) -> Epoch:
    def run(epoch: int) -> None:
        for index in range(len(dataset)):
            rng = np.random.default_rng([0, epoch, index, 1])
            for view, place in enumerate(places_of(dataset.read(index), settings, epoch)):
                picture = cut_view(dataset.read(index).image, place)
                planes(augmented(picture, settings.photometrics(view), rng))

    return run


def whole(samples: list[RoiSample], jpegs: list[bytes], settings: ViewSettings) -> Epoch:
    def run(epoch: int) -> None:
        for sample, jpeg in zip(samples, jpegs, strict=True):
            view_batch([replace(sample, image=RoiImage(jpeg, "jpeg"))], [(0, epoch, sample.index)], settings)

    return run


def script(samples: list[RoiSample], jpegs: list[bytes], settings: ViewSettings) -> Epoch:
    jitter = ColorJitter(*(getattr(settings.local, name) for name in ("brightness", "contrast", "saturation", "hue")))

    def cut(image: Image.Image, place: ViewPlace) -> Image.Image:
        left, top, side = round(place.x_roi), round(place.y_roi), round(place.side_roi)
        view = image.crop((left, top, left + side, top + side))
        view = view.resize((place.side_px, place.side_px), Image.Resampling.BICUBIC)
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if place.mirrored else view
        return view.rotate(90 * place.quarter_turns)

    def run(epoch: int) -> None:
        for sample, jpeg in zip(samples, jpegs, strict=True):
            rng = np.random.default_rng([0, epoch, sample.index, 1])
            image = Image.open(io.BytesIO(jpeg)).convert("RGB")
            for number, place in enumerate(places_of(sample, settings, epoch)):
                chosen, view = settings.photometrics(number), cut(image, place)
                view = jitter(view) if rng.random() < chosen.colour_share else view
                if rng.random() < chosen.blur_share:
                    view = view.filter(ImageFilter.GaussianBlur(rng.uniform(*chosen.blur_sigma_px)))
                planes(np.array(view))

    return run


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def parts_ms(dataset: RoiDataset, settings: ViewSettings) -> dict[str, float]:
    """CPU milliseconds a ROI of our chain's parts, and the tiles it decodes."""
    parts = dict.fromkeys(("read_row", "decode", "cut", "augment"), 0.0)
    tiles = 0
    for index in range(len(dataset)):
        marks = [time.process_time()]
        sample = dataset.read(index)
        marks.append(time.process_time())
        places = places_of(sample, settings, 0)
        for place in places:
            cut_view(sample.image, place)
        tiles += sample.image.tiles_decoded
        marks.append(time.process_time())
        pictures = [cut_view(sample.image, place) for place in places]  # tiles are decoded by now
        marks.append(time.process_time())
        rng = np.random.default_rng([0, 0, index, 1])
        for view, picture in enumerate(pictures):
            augmented(picture, settings.photometrics(view), rng)
        marks.append(time.process_time())
        row, both, cut, augment = np.diff(marks) * 1000 / len(dataset)
        for name, spent in zip(parts, (row, both - cut, cut, augment), strict=True):
            parts[name] += float(spent)
    return {**{f"{name}_ms": spent for name, spent in parts.items()}, "tiles_decoded": tiles / len(dataset)}


def workers_rois_per_s(dataset: RoiDataset, workers: int) -> float:
    """ROIs/s by the clock with worker processes, the best of some epochs after one that starts them."""
    loader = ViewLoader(dataset, SMALL, batch_size=min(BATCH, len(dataset)), seed=0, workers=workers)
    rates = []
    for epoch in range(ROUNDS + 1):
        begun = time.perf_counter()
        count = sum(len(batch) for batch in loader.batches(epoch))
        rates.append(count / (time.perf_counter() - begun))
    return max(rates[1:])


def measure(dataset: RoiDataset, settings: ViewSettings) -> dict[str, float]:
    """CPU milliseconds a ROI of every chain."""
    samples = [dataset.read(index) for index in range(len(dataset))]
    jpegs = [bytes(imagecodecs.jpeg_encode(sample.image.decode(), level=DEFAULT_QUALITY)) for sample in samples]
    chains = {
        "ours": ours(dataset, settings),
        "per_view": per_view(dataset, settings),
        "whole": whole(samples, jpegs, settings),
        "script": script(samples, jpegs, settings),
    }
    return {name: cpu_ms(chain, len(dataset)) for name, chain in chains.items()}


def report(name: str, chains: dict[str, float], images_per_s: list[float]) -> dict[str, float]:
    """Print one kind of views, and give its figures for the JSON."""
    print(f"\n{name}")
    for chain, spent in chains.items():
        print(f"  {chain:10s}{spent:8.1f} ms{1000 / spent:8.0f} ROIs/s a core{spent / chains['ours']:8.1f} x ours")
    for rate in images_per_s:
        cores = {chain: rate * chains[chain] / 1000 for chain in ("ours", "script")}
        print(f"  a GPU of {rate:.0f} images/s: {cores['ours']:.1f} loader cores (script: {cores['script']:.1f})")
    key = name.split()[0].replace("/", "_")
    figures = {f"rois_per_s_{key}": 1000 / chains["ours"], f"cores_per_1000_images_per_s_{key}": chains["ours"]}
    return figures | {f"{chain}_over_ours_{key}": chains[chain] / chains["ours"] for chain in chains if chain != "ours"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=Path, help="a ROI dataset of your own; by default one is drawn and built")
    parser.add_argument("--images-per-s", type=float, nargs="+", default=[500, 1000, 2000], help="of a GPU's step")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        dataset = RoiDataset(arguments.rois or build(Path(name)))
        figures: dict[str, float] = {}
        for kind, settings in (("224/96 views, 2 + 8", SMALL), ("512/208 views, 2 + 8", LARGE)):
            figures |= report(kind, measure(dataset, settings), arguments.images_per_s)
        parts = parts_ms(dataset, SMALL)
        rates = {f"rois_per_s_{workers}_workers": workers_rois_per_s(dataset, workers) for workers in (1, 2)}
    print("\nours, 224/96, a ROI: " + ", ".join(f"{key} {value:.1f}" for key, value in parts.items()))
    print("by the clock: " + ", ".join(f"{key} {value:.0f}" for key, value in rates.items()))
    print(json.dumps({"benchmark": "load_views", **figures, **parts, **rates}))


if __name__ == "__main__":
    main()
