"""What is lost by being a slide: F1 over a slide whose nuclei are known, beside its patches scored one by one.

    python -m benchmarks.infer_accuracy --slide S.svs --truth S.svs.nuclei.csv [--patches DIR] [--checkpoint F]

The slide is laid out from square patches of annotated tissue, `--patch-px` of its px each. Its truth is a CSV of
x_level0, y_level0 and class_id (from 1), level-0 px. `muse infer` does the slide; then the same model is given each
patch alone, cut out of the slide. With `--patches`, a folder in BRCA-M2C's layout, it is also given the patches that
the slide was drawn from, recognised by their nuclei: without enlarging, JPEG and resampling. Matches are one to one
within 3 um; F1 is pooled over patches.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.infer import infer
from muse_core.infer.model import load_nucleus_model
from muse_core.labels import BRCA_DOT_OFFSET_PX, read_brca_m2c
from muse_core.labels.matching import match, pool
from muse_core.machine.process import own_process
from muse_core.models.nucleus_model import NucleusModel
from muse_core.slide import Slide, open_slide

RADIUS_UM = 3.0
MIN_SCORE = 0.5  # of muse infer
DOT_OFFSET_PX = 0.5  # where the slide's truth takes a dot to lie in its px


@dataclass(frozen=True)
class Nuclei:
    """Places in um, scores, and class ids from 0; of one image."""

    xy_um: NDArray[np.float64]
    score: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    def among(self, kept: NDArray[np.bool_]) -> "Nuclei":
        """Those that a mask keeps."""
        return Nuclei(self.xy_um[kept], self.score[kept], self.class_ids[kept])


Pair = tuple[Nuclei, Nuclei]  # found, true


def f1_scores(pairs: list[Pair], n_classes: int) -> dict[str, float]:
    """Detection F1 and mean class F1 of found and true nuclei, pooled over images."""
    everyone = pool(match(one.xy_um, one.score, true.xy_um, radius=RADIUS_UM) for one, true in pairs)
    classes = []
    for number in range(n_classes):
        of_class = [(one.among(one.class_ids == number), true.among(true.class_ids == number)) for one, true in pairs]
        classes.append(pool(match(one.xy_um, one.score, true.xy_um, radius=RADIUS_UM) for one, true in of_class).f1)
    return {"detection_f1": everyone.f1, "mean_class_f1": float(np.mean(classes))}


def read_truth(path: Path, mpp: float) -> Nuclei:
    """The true nuclei of a slide."""
    rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    return Nuclei(rows[:, :2] * mpp, np.ones(len(rows), np.float32), rows[:, 2].astype(np.int64) - 1)


def read_found(out: Path) -> Nuclei:
    """What the command found."""
    table = pq.read_table(next(out.glob("nuclei/*/*/*.parquet")), partitioning=None)
    xy_um = np.column_stack([table["x_um"], table["y_um"]]).astype(np.float64)
    return Nuclei(xy_um, table["score"].to_numpy(), table["class_id"].to_numpy().astype(np.int64))


def found_in(model: NucleusModel, rgb: NDArray[np.uint8]) -> Nuclei:
    """What the model finds in one image at its um/px."""
    (found,) = model.find(rgb[np.newaxis])
    return Nuclei(found.xy.astype(np.float64) * model.mpp, found.score, found.probabilities.argmax(axis=1))


def patches_of(truth: Nuclei, side_um: float) -> Iterator[tuple[int, int, Nuclei]]:
    """Column, row and true nuclei, from its own corner, of each patch of the layout."""
    for column, row in np.unique((truth.xy_um // side_um).astype(int), axis=0).tolist():
        xy_um = truth.xy_um - (column * side_um, row * side_um)
        here = ((xy_um >= 0) & (xy_um < side_um)).all(axis=1)
        yield column, row, Nuclei(xy_um[here], truth.score[here], truth.class_ids[here])


def cut_out(model: NucleusModel, slide: Slide, truth: Nuclei, patch_px: int) -> list[Pair]:
    """Found and true nuclei of each patch, cut out of the slide and seen alone."""
    mpp, pairs = slide.info.mpp.x, []
    side_px = round(patch_px * mpp / model.mpp)
    for column, row, true in patches_of(truth, patch_px * mpp):
        rgb = slide.read_region(column * patch_px, row * patch_px, side_px, side_px, mpp=model.mpp)
        pairs.append((found_in(model, rgb), true))
    return pairs


def originals(model: NucleusModel, folder: Path, truth: Nuclei, side_um: float) -> list[Pair]:
    """The same of the images that the patches were drawn from, each as often as the slide shows it."""
    side_px = round(side_um / model.mpp)
    known: dict[frozenset[tuple[int, ...]], Pair] = {}
    for patch in (patch for split in ("train", "val") for patch in read_brca_m2c(folder, split)):
        if min(patch.image.shape[:2]) < side_px:
            continue
        xy = np.round((patch.xy - BRCA_DOT_OFFSET_PX + DOT_OFFSET_PX).astype(np.float64), 3)
        inside = (xy < side_px).all(axis=1)
        true = Nuclei(xy[inside] * model.mpp, np.ones(inside.sum(), np.float32), patch.class_ids[inside])
        pair = (found_in(model, patch.image[:side_px, :side_px]), true)
        known |= dict.fromkeys(turns(true, side_um), pair)
    return [known[next(iter(turns(true, side_um)))] for _, _, true in patches_of(truth, side_um)]


def turns(true: Nuclei, side_um: float) -> Iterator[frozenset[tuple[int, ...]]]:
    """What tells a patch by its nuclei, turned and mirrored in each of the eight ways."""
    x, y = true.xy_um.T
    for _ in range(4):
        x, y = y, side_um - x
        for one in (x, side_um - x):
            rounded = np.round(np.column_stack([one, y]) * 4).astype(int)
            yield frozenset(map(tuple, np.column_stack([rounded, true.class_ids]).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide laid out from annotated patches")
    parser.add_argument("--truth", type=Path, help="its true nuclei, CSV")
    parser.add_argument("--patches", type=Path, help="the patches it was drawn from, in BRCA-M2C's layout")
    parser.add_argument("--patch-px", type=int, default=920, help="level-0 side of a patch on the slide")
    parser.add_argument("--checkpoint", type=Path, help="weights; those that ship unless given")
    args = parser.parse_args()
    if args.slide is None or args.truth is None:
        print(json.dumps({"benchmark": "infer_accuracy", "skipped": "give --slide and --truth"}))
        return
    model = load_nucleus_model(args.checkpoint, device="cpu", min_score=MIN_SCORE)
    n_classes = len(model.class_names)
    with tempfile.TemporaryDirectory() as name, open_slide(args.slide) as slide:
        infer(args.slide, Path(name) / "out", args.checkpoint)
        truth = read_truth(args.truth, slide.info.mpp.x)
        side_um = args.patch_px * slide.info.mpp.x
        scores = {"slide": f1_scores([(read_found(Path(name) / "out"), truth)], n_classes)}
        scores["cut out"] = f1_scores(cut_out(model, slide, truth, args.patch_px), n_classes)
        if args.patches:
            scores["originals"] = f1_scores(originals(model, args.patches, truth, side_um), n_classes)
    print_table(scores)


def print_table(scores: dict[str, dict[str, float]]) -> None:
    figures: dict[str, float] = {}
    print(f"{'':<12}{'detection F1':>14}{'mean class F1':>15}{'slide minus it':>26}")
    for name, one in scores.items():
        less = {key: scores["slide"][key] - value for key, value in one.items()}
        gaps = "" if name == "slide" else f"{less['detection_f1']:+13.4f}{less['mean_class_f1']:+13.4f}"
        print(f"{name:<12}{one['detection_f1']:14.4f}{one['mean_class_f1']:15.4f}{gaps}")
        label = name.replace(" ", "_")
        figures |= {f"{label}_{key}": value for key, value in one.items()}
        figures |= {} if name == "slide" else {f"slide_minus_{label}_{key}": value for key, value in less.items()}
    print(json.dumps({"benchmark": "infer_accuracy", **figures}))


if __name__ == "__main__":
    own_process()
    main()
