"""What a pretraining step makes of one GPU: views/s, model FLOPs utilisation (MFU) and memory of ViT-S, ViT-B, LFoV-B.

    benchmarks/gpu_pretrain.sh [--models vit-s16 ...] [--steps 60] [--set KEY=VALUE]...

Each model runs the recipe that ships under its name through `muse_core.pretrain` itself, losses, optimiser, teacher and
loader included, on ROIs of 1024 px made for the purpose. FLOPs are those of the backbone's matrix products and
convolutions, two a multiplication, a backward pass as two forward ones; heads and losses are work but not counted. MFU
is of the time that is not spent waiting for data, whose share stands beside it.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import immunohistochemistry
from torch.utils.flop_counter import FlopCounterMode

from muse_core.build.patches import ImportOptions, import_patches
from muse_core.build.settings import ImportSettings
from muse_core.machine.process import own_process
from muse_core.models.backbone import build_backbone
from muse_core.pretrain.settings import PretrainSettings, load_pretrain_settings
from muse_core.pretrain.trainer import METRICS_NAME, pretrain

# ROIs a step that leave room on 80 GB, and what makes a recipe's last phase its only one.
MODELS = {
    "vit-s16": (64, ()),
    "vit-b16": (64, ()),
    "lfov-vit-b16": (16, ("phases=[]", "views.global_px=512", "views.local_px=208")),
}
# Dense bfloat16 TFLOP/s. Source: NVIDIA's data sheets.
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "A10": 125}
ROI_PX, ROIS = 1024, 128


def draw_rois(folder: Path, *, count: int = ROIS, side_px: int = ROI_PX) -> Path:
    """A ROI dataset of tissue that scikit-image ships, at 0.25 µm/px, cut from mirrored copies at random."""
    images, rng = folder / "images", np.random.default_rng(0)
    images.mkdir()
    tissue = np.pad(
        cv2.resize(immunohistochemistry(), None, fx=2, fy=2), ((0, side_px), (0, side_px), (0, 0)), "symmetric"
    )
    for number in range(count):
        x, y = rng.integers(0, tissue.shape[0] - side_px, 2)
        patch = np.ascontiguousarray(tissue[y : y + side_px, x : x + side_px, ::-1])
        cv2.imwrite(str(images / f"{number:03}.png"), patch)
    import_patches(ImportOptions(images, 0.25, folder / "rois"), ImportSettings(detector="classical"))
    return folder / "rois"


def flops_of(settings: PretrainSettings) -> float:
    """FLOPs of the backbones for one ROI: the teacher forward, the student forward and backward."""
    with torch.device("meta"):
        backbone = build_backbone(settings.backbone.model_copy(update={"imagenet": False}))

    def forward(side_px: int, *, decoded: bool) -> int:
        images = torch.empty(1, 3, side_px, side_px, device="meta")
        with FlopCounterMode(display=False) as counter:
            backbone(images) if decoded else backbone.encode(images)
        return counter.get_total_flops()

    views, nuclei = settings.views, bool(settings.loss.lambda_nu)
    local_nuclei = nuclei and settings.loss.nulo_student_views == "all"
    of_globals = views.global_views * forward(views.global_px, decoded=nuclei)
    of_locals = views.local_views * forward(views.local_px, decoded=local_nuclei)
    return of_globals + 3 * (of_globals + of_locals)


def measured(name: str, rois: Path, out: Path, arguments: argparse.Namespace) -> dict[str, float | str | None]:
    """One model's figures, from the last line of its run's log."""
    batch, overrides = MODELS[name]
    fixed = [f"steps={arguments.steps}", f"run.log_every={arguments.steps // 2}", f"run.workers={arguments.workers}"]
    fixed += [f"batch_size={arguments.batch or batch}", "run.checkpoint_minutes=1000", *overrides, *arguments.set]
    settings = load_pretrain_settings(Path(name), fixed)
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pretrain(rois, out, settings=settings, device=arguments.device)
    row = json.loads((out / METRICS_NAME).read_text().splitlines()[-1])
    stepping = row["rois_per_s"] / (1 - row["data_wait_share"])  # ROIs/s while not waiting
    tflops = flops_of(settings) * stepping / 1e12
    peak = arguments.peak_tflops or _peak(arguments.device)
    return {
        "model": name,
        "rois_per_step": settings.batch_size,
        "rois_per_s": row["rois_per_s"],
        "views_per_s": row["rois_per_s"] * settings.views.n_views,
        "data_wait_share": row["data_wait_share"],
        "tflops": tflops,
        "mfu": tflops / peak if peak else None,
        "memory_gib": row["memory_gib"],
    }


def _peak(device: str) -> float | None:
    """The most TFLOP/s of the GPU here; None where it isn't in the table."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((float(peak) for part, peak in PEAK_TFLOPS.items() if part in name), None)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks/gpu_pretrain.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=60, help="of which the second half is measured")
    parser.add_argument("--batch", type=int, help="ROIs a step")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="loader processes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU, where it isn't known here")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipes")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"skipped": "no CUDA device answers here"}))
        sys.exit(0)
    with tempfile.TemporaryDirectory() as folder:
        rois = draw_rois(Path(folder))
        print(
            f"{'model':<14}{'ROIs/step':>10}{'ROIs/s':>9}{'views/s':>9}{'waiting':>9}{'TFLOP/s':>9}{'MFU':>7}{'GiB':>7}"
        )
        rows = []
        for name in arguments.models:
            row = measured(name, rois, Path(folder) / name, arguments)
            mfu = f"{row['mfu']:.1%}" if row["mfu"] else "?"
            print(
                f"{name:<14}{row['rois_per_step']:>10}{row['rois_per_s']:>9.1f}{row['views_per_s']:>9.0f}"
                f"{row['data_wait_share']:>9.1%}{row['tflops']:>9.2f}{mfu:>7}{row['memory_gib']:>7.1f}",
                flush=True,
            )
            rows.append(row)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    print(json.dumps({"device": device, "models": rows}))


if __name__ == "__main__":
    own_process()
    main()
