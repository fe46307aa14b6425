"""Pictures of what a network finds on validation images: hits, misses and false points by source, and its reliability.

    python -m benchmarks.validation_pictures --datasets data_manifests/many_organs.toml --data DIR --out DIR [--ndc F]

Of each source the image of median F1 and the worst one are shown, by the rule `mcspatnet` at 3 um and a score of 0.5:
`hits-SOURCE.png`. `reliability.png` shows by source how often a point of each score is a nucleus; the last line is JSON
with the same figures, and the expected calibration error: the mean distance of the two, over points.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muse_core.labels.datasets import read_datasets, read_datasets_file
from muse_core.labels.regions import Region
from muse_core.labels.scores import RADIUS_UM, JudgedPatch
from muse_core.machine.process import own_process
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.judge import find_on_regions, judged
from muse_core.ndc.model import NdcModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = np.linspace(0, 1, 11)  # of scores
LEAST_IN_BIN = 20  # points; fewer say nothing of a share
_NAME_LENGTH = 24  # of a title that fits above its picture
SHOWN_UM = 125.0  # side of the part of an image that is shown


class Style(NamedTuple):
    """Of a kind of point; colours are told apart by colour-blind eyes, and on H&E."""

    marker: str
    colour: str


HIT, MISS, FALSE = Style("o", "#009e73"), Style("o", "#ffd400"), Style("x", "#d4006a")
POINTS: dict[str, Any] = {"markersize": 7, "markeredgewidth": 1.4, "fillstyle": "none", "linestyle": "none"}


class Verdict(NamedTuple):
    """One image and what became of its nuclei, px of it."""

    region: Region
    f1: float
    hits: NDArray[np.floating]
    missed: NDArray[np.floating]
    false: NDArray[np.floating]


def verdict(row: JudgedPatch, region: Region) -> Verdict:
    """Which points are nuclei, at the score of 0.5."""
    sure = row.score >= 0.5
    kept = replace(row, xy=row.xy[sure], score=row.score[sure], ids=row.ids[sure])
    pairs = kept.matched("mcspatnet", RADIUS_UM / kept.mpp).pairs
    hit, found = (np.isin(np.arange(n), pairs[:, side]) for side, n in ((0, len(kept.xy)), (1, len(kept.true_xy))))
    f1 = 2 * len(pairs) / max(1, len(kept.xy) + len(kept.true_xy))
    return Verdict(region, f1, kept.xy[hit], kept.true_xy[~found], kept.xy[~hit])


def draw_verdict(axes: "Axes", one: Verdict, title: str) -> None:
    """The middle of an image with its points."""
    side = SHOWN_UM / one.region.mpp
    height, width = one.region.image.shape[:2]
    left, top = max(0.0, (width - side) / 2), max(0.0, (height - side) / 2)
    axes.imshow(one.region.image, extent=(0, width, height, 0), interpolation="nearest")
    for xy, label, style in ((one.hits, "hit", HIT), (one.missed, "missed", MISS), (one.false, "false", FALSE)):
        axes.plot(xy[:, 0], xy[:, 1], style.marker, color=style.colour, label=f"{label} {len(xy)}", **POINTS)
    axes.set(xlim=(left, min(width, left + side)), ylim=(min(height, top + side), top), xticks=[], yticks=[])
    axes.set_title(f"{title}: {one.region.name[:_NAME_LENGTH]}, F1 {one.f1:.2f}", fontsize=9)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=8, frameon=False)


def picture_of(source: str, verdicts: Sequence[Verdict], path: Path) -> None:
    """The image of median F1 and the worst one, side by side."""
    ordered = sorted(verdicts, key=lambda one: one.f1)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.4), layout="constrained")
    typical, worst = figure.subplots(1, 2)
    draw_verdict(typical, ordered[len(ordered) // 2], "median")
    draw_verdict(worst, ordered[0], "worst")
    figure.suptitle(f"{source}: {len(verdicts)} validation images; counts are of whole images", fontsize=10)
    figure.savefig(path, dpi=110)


class Reliability(NamedTuple):
    """How often points of a score are nuclei, by bin of scores; a bin with too few points is NaN."""

    said: list[float]
    hit: list[float]
    points: list[int]
    error: float


def reliability(rows: Sequence[JudgedPatch]) -> Reliability:
    """Scores against the share of points that pair with a label, whatever the cut."""
    score = np.concatenate([row.score for row in rows])
    hit = np.concatenate(
        [np.isin(np.arange(len(row.xy)), row.matched("dpa", RADIUS_UM / row.mpp).pairs[:, 0]) for row in rows]
    )
    bins = np.clip(np.digitize(score, BINS) - 1, 0, len(BINS) - 2)
    points = np.bincount(bins, minlength=len(BINS) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        said = np.bincount(bins, score, len(BINS) - 1) / points
        share = np.bincount(bins, hit, len(BINS) - 1) / points
    error = float(np.nansum(np.abs(said - share) * points) / points.sum())
    few = points < LEAST_IN_BIN
    said[few] = share[few] = np.nan
    return Reliability(said.tolist(), share.tolist(), points.tolist(), error)


def draw_reliability(by_source: dict[str, Reliability], path: Path) -> None:
    """One line a source, and where a score would say the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    for name, one in by_source.items():
        axes.plot(one.said, one.hit, marker="o", markersize=4, label=f"{name}, error {one.error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of points that are nuclei", aspect="equal")
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--ndc", type=Path, default=MUSE_NANO_NDC, help="weights; those that ship unless given")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    model = NdcModel(wanted.ndc, min_score=0.05)
    by_source: dict[str, Reliability] = {}
    for source in read_datasets(read_datasets_file(wanted.datasets), wanted.data).sources:
        found = find_on_regions(model.find, source.validation)
        rows = [judged(one, region) for one, region in zip(found, source.validation, strict=True)]
        verdicts = [verdict(row, region) for row, region in zip(rows, source.validation, strict=True)]
        picture_of(source.name, verdicts, wanted.out / f"hits-{source.name}.png")
        by_source[source.name] = reliability(rows)
        print(f"{source.name:12} {len(rows)} images, expected calibration error {by_source[source.name].error:.3f}")
    draw_reliability(by_source, wanted.out / "reliability.png")
    print(json.dumps({name: one._asdict() for name, one in by_source.items()}))


if __name__ == "__main__":
    own_process()
    main()
