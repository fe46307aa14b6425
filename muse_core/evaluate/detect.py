"""Score a nucleus detector on labelled patches by every published rule, and draw where it fails."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.detector.calibrate import RADIUS_UM
from muse_core.detector.detect import Detector, detect
from muse_core.errors import ConfigError
from muse_core.labels import LabelledPatch, read_labelled_patches
from muse_core.labels.matching import RULES, Matches, Rule, match, mean_f1, pool
from muse_core.machine.files import whole_file

MAIN_RULE: Rule = "mcspatnet"
_HIT, _FALSE, _MISS = (40, 200, 40), (230, 30, 30), (30, 60, 240)  # RGB
_ZOOM = 3  # picture px a patch px


@dataclass(frozen=True)
class PatchScore:
    """What a detector found on one patch: (N, 3) x, y, score in px of the patch, and the pairs by the main rule."""

    patch: LabelledPatch
    nuclei: NDArray[np.float32]
    matches: Matches


def evaluate_detector(
    detector: Detector,
    dataset: str,
    data: Path,
    *,
    split: str = "val",
    radius_um: float = RADIUS_UM,
    checkpoint: str = "",
) -> dict[str, Any]:
    """Detection F1, precision and recall of a split, counts pooled over its patches.

    Args:
        detector: any detector; it is called with each whole patch.
        dataset: a name in `labelled_patches.READERS`.
        data: its folder.
        split: train, val or test.
        radius_um: farthest that a point may lie from its label.
        checkpoint: what to call the detector in the answer.

    Returns:
        `task, dataset, split, checkpoint, protocol, radius_um, f1, precision, recall` by the main rule (each label its
        nearest free point, nearer than the radius), `n_patches, n_labels, n_points`, and `protocols`: the same by
        every rule.

    Raises:
        ConfigError: unknown dataset or split.
        DatasetError: the data, or what the detector returned, are not what they should be.
    """
    scores = score_patches(detector, read_labelled_patches(dataset, data, split), radius_um=radius_um)
    protocols = {rule: _by_rule(scores, rule, radius_um) for rule in RULES}
    return {
        "task": "detect",
        "dataset": dataset,
        "split": split,
        "checkpoint": checkpoint,
        "protocol": MAIN_RULE,
        "radius_um": radius_um,
        **protocols[MAIN_RULE],
        "n_patches": len(scores),
        "n_labels": sum(score.matches.n_true for score in scores),
        "n_points": sum(score.matches.n_pred for score in scores),
        "protocols": protocols,
    }


def score_patches(
    detector: Detector, patches: Sequence[LabelledPatch], *, radius_um: float = RADIUS_UM
) -> list[PatchScore]:
    """Run a detector on each patch and pair its points with the labels by the main rule."""
    scores = []
    for patch in patches:
        nuclei = detect(detector, patch.image, patch.mpp)
        scores.append(PatchScore(patch, nuclei, _matched(nuclei, patch, MAIN_RULE, radius_um)))
    return scores


def _matched(nuclei: NDArray[np.float32], patch: LabelledPatch, rule: Rule, radius_um: float) -> Matches:
    return match(nuclei[:, :2], nuclei[:, 2], patch.xy, radius=radius_um / patch.mpp, rule=rule)


def _by_rule(scores: Sequence[PatchScore], rule: Rule, radius_um: float) -> dict[str, float]:
    matches = [_matched(score.nuclei, score.patch, rule, radius_um) for score in scores]
    total = pool(matches)
    return {"f1": total.f1, "precision": total.precision, "recall": total.recall, "mean_patch_f1": mean_f1(matches)}


def draw_worst(scores: Sequence[PatchScore], path: Path, *, count: int = 4) -> None:
    """Draw the patches of lowest F1 side by side: hits green, false points red, missed labels blue.

    Args:
        scores: of `score_patches`.
        path: a PNG file to write.
        count: how many patches.

    Raises:
        ConfigError: there is nothing to draw.
        OutputError: the file cannot be written.
    """
    worst = sorted(scores, key=lambda score: score.matches.counts.f1)[:count]
    if not worst:
        raise ConfigError(f"{path}: no patch to draw; the split is empty")
    pictures = [_drawn(score) for score in worst]
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        cv2.copyMakeBorder(picture, 0, height - picture.shape[0], 0, 12, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for picture in pictures
    ]
    _, encoded = cv2.imencode(".png", cv2.cvtColor(np.hstack(padded), cv2.COLOR_RGB2BGR))
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _drawn(score: PatchScore) -> NDArray[np.uint8]:
    """One patch, enlarged, with its marks and a line of counts above."""
    picture = cv2.resize(score.patch.image, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_CUBIC)
    hit_points, hit_labels = score.matches.pairs.T
    is_hit = np.isin(np.arange(len(score.nuclei)), hit_points)
    for colour, points, size in (
        (_HIT, score.nuclei[is_hit], 5),
        (_FALSE, score.nuclei[~is_hit], 7),
        (_MISS, np.delete(score.patch.xy, hit_labels, axis=0), 10),
    ):
        for x, y in points[:, :2] * _ZOOM:
            cv2.circle(picture, (round(float(x)), round(float(y))), size, colour, 2, cv2.LINE_AA)
    counts = score.matches.counts
    text = f"F1 {counts.f1:.3f}  hits {counts.tp} (green)  false {counts.fp} (red)  missed {counts.fn} (blue)"
    picture = cv2.copyMakeBorder(picture, 64, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(picture, score.patch.name[:60], (8, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, text, (8, 54), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)
