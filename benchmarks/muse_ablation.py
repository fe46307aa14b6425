"""The directions of the paper's tables 4, 5 and 6 on a small scale: KNN and linear accuracy of `nano` after short runs.

    python -m benchmarks.muse_ablation --rois DIR --data DIR [--table 6] [--start imagenet] [--seeds 3] [--steps N]

Each variant is pretrained without labels on the ROI dataset by the recipe that ships, but for the one thing that the
table changes, then scored on the labelled dataset's validation split: KNN at the paper's five k, the best of them, and
the linear layer. Maps of all, also of the network before pretraining, are standardised over the ROIs' nuclei, as those
of weights that ship are; without a decoder there is nothing to standardise by. Runs are kept in --out and not repeated;
--workers of them at a time, one thread each.
"""

import argparse
import json
import logging
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from muse_core.evaluate.representation import (
    EvaluationRequest,
    evaluate_knn,
    evaluate_linear,
    load_encoder,
    read_features,
)
from muse_core.evaluate.representation.encoders import MapEncoder
from muse_core.machine.process import own_process
from muse_core.pretrain.settings import load_pretrain_settings
from muse_core.pretrain.standardise import with_standard_map
from muse_core.pretrain.trainer import pretrain
from muse_core.roi_dataset.dataset import RoiDataset

TABLES: dict[str, dict[str, tuple[str, ...] | None]] = {
    "6": {
        "no pretraining": None,
        "L_image only": ("loss.lambda_nu=0",),
        "L_nu only": ("loss.lambda_image=0",),
        "both": (),
    },
    "5": {
        "views 0.5 um/px": ("views.global_mpp=[0.5,0.5]", "views.local_mpp=[0.5,0.5]"),
        "views 0.25 um/px": ("views.global_mpp=[0.25,0.25]", "views.local_mpp=[0.25,0.25]"),
        "views 0.25 to 0.5": ("views.global_mpp=[0.25,0.5]", "views.local_mpp=[0.25,0.5]"),
    },
    "4": {
        "no decoder": ("backbone.decoder=false",),
        "decoder, finest level": ("backbone.hybrid=false",),
        "decoder, all levels": (),
    },
}
# Short runs from ImageNet keep its batch norm statistics: those of recoloured views cost two points of KNN at first,
# which 150 steps don't make up for. From a random start nothing of the encoder may stand still.
STARTS: dict[str, tuple[str, ...]] = {
    "imagenet": ("batch_norm=frozen",),
    "random": (
        "backbone.imagenet=false",
        "optimiser.encoder_rate=1",
        "optimiser.freeze_stages=0",
        "optimiser.freeze_depthwise=false",
    ),
}


@dataclass(frozen=True)
class Job:
    """One run: what differs from the recipe that ships, and where everything lies."""

    variant: str
    overrides: tuple[str, ...] | None  # None: no training
    start: str
    seed: int
    steps: int
    rois: str
    dataset: str
    data: str
    out: str
    mpp: float
    standardised: bool

    @property
    def folder(self) -> Path:
        """Of this run alone."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.variant)
        return Path(self.out) / f"{words}_{self.start}_{self.seed}"


def run(job: Job, device: str) -> dict[str, Any]:
    """Pretrain, extract, score; or the scores of an earlier run of the same job."""
    kept = job.folder / f"scores-{job.mpp:g}.json"
    if kept.exists() and (found := json.loads(kept.read_text()))["job"] == json.loads(json.dumps(asdict(job))):
        return found
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    started = time.perf_counter()
    loading = [] if device == "cpu" else ["run.workers=1"]  # views are cut while the GPU computes
    choices = [
        "standardised_at_mpp=0",  # below, as for the network before pretraining
        f"seed={job.seed}",
        f"steps={job.steps}",
        "run.threads=1",
        *loading,
        *STARTS[job.start],
        *(job.overrides or ()),
    ]
    settings = load_pretrain_settings(None, choices)
    if job.overrides is None:
        fresh = "nano-imagenet" if job.start == "imagenet" else "nano"
        encoder = load_encoder(None, fresh, seed=job.seed, device=device)
    else:
        pretrained = pretrain(job.rois, job.folder, settings=settings, device=device, resume=True)
        encoder = load_encoder(pretrained.backbone, device=device)
    trained = time.perf_counter() - started
    if job.standardised:
        assert isinstance(encoder, MapEncoder)
        encoder.net = with_standard_map(encoder.net, RoiDataset(job.rois), mpp=job.mpp)
    features = read_features(encoder, EvaluationRequest(job.dataset, Path(job.data), mpp=job.mpp), batch_tiles=16)
    knn, linear = evaluate_knn(features), evaluate_linear(features)
    scores = {"knn": knn["accuracy"], "linear": linear["accuracy"], "by_k": knn["by_k"], "seconds": trained}
    job.folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"job": asdict(job), **scores}))
    return {"job": asdict(job), **scores}


def table(results: list[dict[str, Any]], *, start: str, mpp: float) -> dict[str, float]:
    """Print a row a variant and return its figures."""
    figures: dict[str, float] = {}
    print(f"\nfrom {start}, tiles at {mpp:g} um/px: accuracy %, mean and standard deviation over seeds")
    print(f"{'variant':<24}{'KNN':>14}{'linear':>16}{'runs':>6}{'s a run':>9}")
    for variant in dict.fromkeys(result["job"]["variant"] for result in results):
        rows = [result for result in results if result["job"]["variant"] == variant]
        cells = []
        for task in ("knn", "linear"):
            values = [row[task] for row in rows]
            figures[f"{task} {variant}"] = mean(values)
            cells.append(f"{mean(values):.2f} +- {stdev(values) if len(values) > 1 else 0:.2f}")
        seconds = mean(row["seconds"] for row in rows)
        print(f"{variant:<24}{cells[0]:>14}{cells[1]:>16}{len(rows):>6}{seconds:>9.0f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.muse_ablation", description=__doc__)
    parser.add_argument("--rois", required=True, help="ROI dataset to pretrain on")
    parser.add_argument("--data", required=True, help="labelled dataset")
    parser.add_argument("--dataset", default="brca-m2c")
    parser.add_argument("--table", choices=TABLES, default="6")
    parser.add_argument("--start", choices=STARTS, default="imagenet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.5], help="of the labelled tiles")
    parser.add_argument("--as-trained", action="store_true", help="don't standardise maps over the ROIs' nuclei")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    wanted = parser.parse_args()
    common = (wanted.steps, wanted.rois, wanted.dataset, wanted.data, str(Path(wanted.out) / f"{wanted.steps}-steps"))
    figures = {}
    for mpp in wanted.mpp:
        jobs = [
            Job(variant, overrides, wanted.start, seed, *common, mpp, not wanted.as_trained)
            for seed in range(wanted.seeds)
            for variant, overrides in TABLES[wanted.table].items()
        ]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(wanted.workers, mp_context=context) as pool:
            waiting = {pool.submit(run, job, wanted.device): job for job in jobs}
            for done in as_completed(waiting):
                job, scores = waiting[done], done.result()
                print(f"{job.variant}, seed {job.seed}: KNN {scores['knn']:.2f}, {scores['seconds']:.0f} s", flush=True)
            results = [future.result() for future in waiting]
        figures |= {f"{key} at {mpp:g}": value for key, value in table(results, start=wanted.start, mpp=mpp).items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    own_process()
    sys.exit(main())
