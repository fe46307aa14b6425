"""Is it worth asking? Labels of nuclei that the queue asks about against labels of nuclei drawn by lot, as many.

    python -m benchmarks.teach_queue --data DIR [--labels N] [--steps N] [--seeds N [N ...]] [--arms ARM [ARM ...]]
    python -m benchmarks.teach_queue --data DIR --datasets F.toml --source NAME --checkpoint F [...]

Labels of validation patches are hidden; some patches are looked at by the model in use and asked about, others scored.
An answer is the class of the label within 3 um of the nucleus, or that there is none. All goes the way it goes in
`muse view`: inference, the queue, marks in a lab folder, a fifth of them held back, `muse teach`. Without `--source`
the patches are BRCA-M2C's, half asked about and half scored, and the model is the one that ships: tissue that it knows.
With it they are a lab's with tissue that the model does not know: half a dozen training images of a source of
`--datasets` are asked about and its validation images scored, by a checkpoint that has not learned from it.
    queue    the most doubtful nuclei, of all patches in turn, 20 um apart
    both     the most doubtful and the most typical, half and half
    lot      nuclei drawn by lot from all that were found
Each seed parts the patches anew and draws anew. Of each arm it prints mean class F1 and detection F1 on the scored
patches, by the main rule at 3 um, of the model before, of the taught one, and of the one in use after the comparison.
The weights that ship were not trained on these patches, but their step and threshold were chosen by them.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from muse_core.api import infer
from muse_core.labels import LabelledPatch, read_labelled_patches
from muse_core.labels.datasets import read_datasets, read_datasets_file
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region, regions_of
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM
from muse_core.labels.summary import summary_of
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.judge import judged_rows
from muse_core.ndc.model import NdcModel
from muse_core.ndc.registry import current_checkpoint
from muse_core.ndc.teach import REGISTRY_NAME, RUNS_NAME, TeachSettings, teach
from muse_core.viewer import ViewedRun
from muse_core.viewer.asking import Kind, reach_um, to_ask
from muse_core.viewer.lab import Lab, SlideFrame
from muse_core.viewer.marks import NucleusMark, SentMark

ARMS = ("queue", "both", "lot")
ASKED_IMAGES = 6


class Question(NamedTuple):
    """A nucleus to ask about: its slide, where it is in px of the patch, and the class it was given."""

    slide_id: str
    x: float
    y: float
    was: str


class Parts(NamedTuple):
    """Patches whose nuclei are asked about, and those that models are scored on."""

    asked: list[LabelledPatch]
    scored: list[LabelledPatch]


def strangers(datasets: Path, data: Path, name: str, seed: int) -> Parts:
    """Training images to ask about, drawn by seed, and the validation images, of one source."""
    read = read_datasets(read_datasets_file(datasets), data)
    (source,) = (one for one in read.sources if one.name == name)

    def patch(region: Region) -> LabelledPatch:
        return LabelledPatch(
            region.name, region.image, region.xy, region.class_ids, tuple(read.class_names), region.mpp
        )

    chosen = np.random.default_rng(seed).permutation(len(source.train))[:ASKED_IMAGES]
    return Parts([patch(source.train[row]) for row in chosen], [patch(region) for region in source.validation])


def halves(data: Path, seed: int) -> Parts:
    """BRCA-M2C's validation patches, half to ask about and half to score."""
    patches = read_labelled_patches("brca-m2c", data, "val")
    order = np.random.default_rng(seed).permutation(len(patches))
    half = len(patches) // 2
    return Parts([patches[row] for row in order[:half]], [patches[row] for row in order[half:]])


def looked_at(patches: Sequence[LabelledPatch], out: Path, checkpoint: Path) -> Path:
    """The patches as images, and their nuclei as `muse infer` finds them; the run's folder."""
    folder = out / "patches"
    folder.mkdir()
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("slide_id", "uri", "mpp"))
        for patch in patches:
            path = folder / f"{patch.name}.png"
            Image.fromarray(patch.image).save(path)
            rows.writerow((patch.name, str(path), patch.mpp))
    summary = infer(out / "manifest.csv", out / "run", checkpoint=checkpoint, device="cpu")
    assert not summary.failures, summary.failures
    return out / "run"


def wanted(run: ViewedRun, arm: str, count: int, seed: int) -> list[Question]:
    """Nuclei to ask about."""
    if arm == "lot":
        found = [Question(slide_id, *row) for slide_id in run.slide_ids for row in _nuclei(run, slide_id)]
        return [found[row] for row in np.random.default_rng(seed).permutation(len(found))[:count]]
    if arm == "queue":
        return _asked(run, "doubtful", count)
    doubtful = _asked(run, "doubtful", count // 2)
    typical = [one for one in _asked(run, "typical", 2 * count) if one not in doubtful]
    return doubtful + typical[: count - len(doubtful)]


def _asked(run: ViewedRun, kind: Kind, count: int) -> list[Question]:
    rows = to_ask(run, lambda _: [], kind=kind, class_name=None, slide_id=None, count=count)
    return [Question(row["slide_id"], row["x"], row["y"], row["class_name"]) for row in rows]


def _nuclei(run: ViewedRun, slide_id: str) -> list[tuple[float, float, str]]:
    dataset = run.slide(slide_id).dataset
    assert dataset is not None
    names = ["x_level0", "y_level0", "class_name"]
    return [tuple(row.values()) for table in dataset.tables(slide_id, names) for row in table.to_pylist()]


def answer(run: ViewedRun, patches: Sequence[LabelledPatch], questions: Sequence[Question]) -> int:
    """Marks in the lab folder as somebody sets them who knows the labels; how many were otherwise than the model."""
    by_name = {patch.name: patch for patch in patches}
    trees = {name: cKDTree(patch.xy) for name, patch in by_name.items()}

    def frame(slide_id: str) -> SlideFrame:
        mpp, shown = by_name[slide_id].mpp, run.slide(slide_id)
        return SlideFrame(shown.path, (mpp, mpp), mpp_given=True, size_level0=shown.size_level0)

    sent = []
    for number, (slide_id, x, y, was) in enumerate(questions):
        patch = by_name[slide_id]
        distance, nearest = trees[slide_id].query((x, y))
        is_one = distance * patch.mpp <= RADIUS_UM
        class_id = int(patch.class_ids[nearest])
        if is_one and class_id == UNKNOWN_CLASS:
            continue  # who knows these classes alone passes on
        name = patch.class_names[class_id] if is_one else None
        reach = reach_um(run.slide(slide_id), (x, y))
        mark = NucleusMark(slide_id=slide_id, x=x, y=y, class_name=name, was=was, reach_um=reach)
        sent.append(SentMark(id=f"answer-{number:06d}", mark=mark))
    entries = Lab(run.lab, frame).append(sent, "the labels")
    return sum(entry.mark.class_name != entry.mark.was for entry in entries if isinstance(entry.mark, NucleusMark))


def scored(checkpoint: Path, patches: Sequence[LabelledPatch]) -> tuple[float, float]:
    """Mean class F1 and detection F1 by the main rule."""
    names = patches[0].class_names
    rows = judged_rows(NdcModel(checkpoint), regions_of(patches), class_names=names)
    scores = summary_of(rows, names)["protocols"][MAIN_RULE]
    return float(scores["mean_class_f1"]), float(scores["detection"]["f1"])


def one_arm(
    run: ViewedRun, parts: Parts, arm: str, checkpoint: Path, *, seed: int, n_labels: int, steps: int
) -> dict[str, Any]:
    """Ask, teach, score."""
    changed = answer(run, parts.asked, wanted(run, arm, n_labels, seed))
    begun = time.perf_counter()
    decision = teach(run.lab, in_use=checkpoint, settings=TeachSettings(steps=steps, seed=seed, threads=1))
    assert decision is not None
    (taught,) = (run.lab / RUNS_NAME).glob("*/ndc.safetensors")
    result = {"arm": arm, "seed": seed, "labels": n_labels, "changed": changed, "seconds": time.perf_counter() - begun}
    result |= {"taken": decision.taken, "held_back": decision.candidate.n_labels}
    for name, checkpoint in (("taught", taught), ("in_use", current_checkpoint(run.lab / REGISTRY_NAME))):
        result[f"{name}_f1"], result[f"{name}_detection"] = scored(checkpoint, parts.scored)
    return result


def main() -> None:
    """Run the arms and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", type=Path)
    parser.add_argument("--source")
    parser.add_argument("--checkpoint", type=Path, default=MUSE_NANO_NDC)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    results = []
    for seed in args.seeds:
        parts = strangers(args.datasets, args.data, args.source, seed) if args.source else halves(args.data, seed)
        with tempfile.TemporaryDirectory() as folder:
            out = looked_at(parts.asked, Path(folder), args.checkpoint)
            before = dict(zip(("before_f1", "before_detection"), scored(args.checkpoint, parts.scored), strict=True))
            for arm in args.arms:
                run = ViewedRun(out, lab=Path(folder) / f"lab-{arm}")
                found = one_arm(run, parts, arm, args.checkpoint, seed=seed, n_labels=args.labels, steps=args.steps)
                results.append(before | found)
                print(json.dumps(results[-1]), flush=True)
    print(f"{'arm':<8}{'before':>9}{'taught':>9}{'in use':>9}   mean class F1, mean of {len(args.seeds)} seeds")
    for arm in args.arms:
        rows = [one for one in results if one["arm"] == arm]
        means = [float(np.mean([row[name] for row in rows])) for name in ("before_f1", "taught_f1", "in_use_f1")]
        print(f"{arm:<8}" + "".join(f"{mean:>9.4f}" for mean in means))
    print(json.dumps({"labels": args.labels, "steps": args.steps, "results": results}))


if __name__ == "__main__":
    main()
