"""What pretraining and unlabelled tissue bring to detection and classification, on a small scale.

    python -m benchmarks.ndc_arms --data DIR --unlabelled ROIS [--seeds 3] [--steps 250] [--pretrained CKPT]

Each arm fine-tunes `nano` by the recipe that ships, but shorter, on the labelled dataset's training split: from
random weights, from ImageNet's, from MUSE's, and from MUSE's with L_cons on tissue without labels. Printed is what
validation says by the rule of MCSpatNet within 6 px, at the step and threshold that validation chose: mean and standard
deviation over seeds. Runs are kept in --out and not repeated; --workers of them at a time, one thread each.
"""

import argparse
import json
import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from muse_core.config import load_settings
from muse_core.machine.process import own_process
from muse_core.ndc import data as sources
from muse_core.ndc.finetune import finetune
from muse_core.ndc.settings import FinetuneSettings

RULE = "mcspatnet"


@dataclass(frozen=True)
class Arm:
    """Where a run starts, and whether it sees tissue without labels."""

    name: str
    init: str
    unlabelled: bool = False


def arms_of(pretrained: str) -> list[Arm]:
    """The rows of the table."""
    return [
        Arm("from scratch", "none"),
        Arm("from ImageNet", "imagenet"),
        Arm("pretrained by MUSE", pretrained),
        Arm("MUSE and L_cons", pretrained, unlabelled=True),
    ]


def run(arm: Arm, seed: int, wanted: argparse.Namespace) -> dict[str, Any]:
    """Scores of a run; those of an earlier one where there was one."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder = Path(wanted.out) / f"{wanted.steps}-steps" / f"{arm.name.replace(' ', '-')}_{seed}"
    job = {**asdict(arm), "seed": seed, "steps": wanted.steps, "unlabelled_from": str(wanted.unlabelled)}
    kept = folder / "scores.json"
    if kept.exists() and (found := json.loads(kept.read_text()))["job"] == job:
        return found
    choices = [f"seed={seed}", f"steps={wanted.steps}", "threads=1", f"validate_every={max(1, wanted.steps // 5)}"]
    settings = load_settings(FinetuneSettings, None, choices)
    tissue = sources.unlabelled_regions(wanted.unlabelled, mpp=None) if arm.unlabelled else []
    data = sources.data_of(wanted.dataset, Path(wanted.data), unlabelled=tissue, settings=settings)
    result = finetune(data, folder, init=arm.init, settings=settings, device=wanted.device, resume=True)
    rule = result.scores["protocols"][RULE]  # type: ignore[index]
    scores = {"mean": rule["mean_class_f1"], "detection": rule["detection"]["f1"]}
    scores |= {name: one["f1"] for name, one in rule["classes"].items()}
    kept.write_text(json.dumps({"job": job, "scores": scores, "seconds": result.seconds}))
    return {"job": job, "scores": scores, "seconds": result.seconds}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.ndc_arms", description=__doc__)
    parser.add_argument("--data", required=True, help="labelled dataset")
    parser.add_argument("--dataset", default="brca-m2c")
    parser.add_argument("--unlabelled", required=True, help="ROI dataset for L_cons")
    parser.add_argument("--pretrained", default="muse-nano", help="a file of muse pretrain, or muse-nano")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", default="runs/ndc-arms")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    wanted = parser.parse_args()
    jobs = [(arm, seed) for seed in range(wanted.seeds) for arm in arms_of(wanted.pretrained)]
    with ProcessPoolExecutor(wanted.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run, arm, seed, wanted): (arm, seed) for arm, seed in jobs}
        for future in as_completed(waiting):
            (arm, seed), done = waiting[future], future.result()
            line = f"{arm.name}, seed {seed}: mean class F1 {done['scores']['mean']:.4f}, {done['seconds']:.0f} s"
            print(line, flush=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for future, (arm, _) in waiting.items():
        results.setdefault(arm.name, []).append(future.result())
    print(f"\n{wanted.steps} steps, {wanted.dataset} validation, {RULE}: F1, mean and standard deviation over seeds")
    figures = {}
    for name, rows in results.items():
        for score in rows[0]["scores"]:
            values = [row["scores"][score] for row in rows]
            figures[f"{name}: {score}"] = (mean(values), stdev(values) if len(values) > 1 else 0.0)
        cells = [
            f"{score} {figures[f'{name}: {score}'][0]:.3f} +- {figures[f'{name}: {score}'][1]:.3f}"
            for score in rows[0]["scores"]
        ]
        print(f"{name:<20}" + "   ".join(cells))
    print(json.dumps({"benchmark": "ndc_arms", **{key: value[0] for key, value in figures.items()}}))


if __name__ == "__main__":
    own_process()
    sys.exit(main())
