"""F1 lost where the same validation tissue is dimmer, of another hue, compressed, blurred or of another scale.

    python -m benchmarks.robustness --datasets data_manifests/many_organs.toml --data DIR [--detector F] [--ndc F]

Each source's validation images are scored as they are and changed in one way at a time, by the rule `mcspatnet` at 3 um
and the cut that ships with the weights. The last line is JSON: F1 as it is, and what each change takes from it, by
source; of the NDC network the mean class F1 too.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.detector.learned import LearnedDetector
from muse_core.labels.datasets import LabelledData, read_datasets, read_datasets_file
from muse_core.labels.matching import Counts, match
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM, counts_of, score_counts
from muse_core.machine.process import own_process
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.ndc.judge import judged_rows
from muse_core.ndc.model import NdcModel

Change = Callable[[Region], Region]
Scores = dict[str, float]

BLUR_UM = 0.5  # 1 px of what the networks see


def light(gain: float) -> Change:
    """Every channel times a gain, as a dimmer lamp or a denser slide has it."""
    return lambda region: replace(region, image=np.clip(region.image * gain, 0, 255).astype(np.uint8))


def hue(degrees: float) -> Change:
    """Hues of HSV turned."""

    def turned(region: Region) -> Region:
        hsv = cv2.cvtColor(region.image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + degrees) % 360
        return replace(region, image=_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255))

    return turned


def jpeg(quality: int) -> Change:
    """Compressed, colours at half the resolution, as most scanners do."""

    def compressed(region: Region) -> Region:
        bgr = cv2.cvtColor(region.image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return replace(region, image=cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))

    return compressed


def blur(region: Region) -> Region:
    """Out of focus by a Gaussian of 0.5 um."""
    return replace(region, image=_uint8(cv2.GaussianBlur(region.image, (0, 0), BLUR_UM / region.mpp)))


def scanned_at(mpp: float) -> Change:
    """As a scanner of another um/px has it, which the file says."""

    def scanned(region: Region) -> Region:
        factor = region.mpp / mpp
        size = (round(region.image.shape[1] * factor), round(region.image.shape[0] * factor))
        kernel = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        image = cv2.resize(region.image, size, interpolation=kernel)
        return replace(region, image=image, mpp=mpp, xy=(region.xy * np.float32(factor)), annotated=None)

    return scanned


CHANGES: dict[str, Change] = {
    "as it is": lambda region: region,
    "light x 0.66": light(0.66),
    "light x 0.60": light(0.60),
    "light x 0.54": light(0.54),
    "hue +10": hue(10),
    "hue -10": hue(-10),
    "JPEG 40": jpeg(40),
    "blur 1 px": blur,
    "0.4 um/px": scanned_at(0.4),
    "0.6 um/px": scanned_at(0.6),
}


def detector_scores(detector: LearnedDetector, regions: Sequence[Region]) -> Scores:
    """F1 of what a detector finds."""
    total = Counts()
    for region in regions:
        found = detector(region.image, region.mpp)
        found = found[region.is_annotated(found[:, :2])]
        total += match(found[:, :2], found[:, 2], region.xy, radius=RADIUS_UM / region.mpp, rule="mcspatnet").counts
    return {"f1": total.f1}


def ndc_scores(model: NdcModel, regions: Sequence[Region], class_names: Sequence[str]) -> Scores:
    """F1 of detection, and the mean class F1 where the source has classes."""
    rows = judged_rows(model, regions, class_names=class_names)
    scores = score_counts(counts_of(rows, len(class_names), MAIN_RULE), MAIN_RULE)
    has_classes = any((region.class_ids != UNKNOWN_CLASS).any() for region in regions)
    return {"f1": scores.detection[0]} | ({"class_f1": scores.mean_class_f1} if has_classes else {})


def measured(data: LabelledData, score: Callable[[Sequence[Region]], Scores]) -> dict[str, dict[str, Scores]]:
    """Scores by source and change; a line is printed for each."""
    answer: dict[str, dict[str, Scores]] = {}
    for source in data.sources:
        found: dict[str, Scores] = {}
        for name, change in CHANGES.items():
            found[name] = score([change(region) for region in source.validation])
            print(f"{source.name:12} {name:14}", *_told(found[name], found["as it is"]), flush=True)
        answer[source.name] = found
    return answer


def _told(scores: Scores, plain: Scores) -> list[str]:
    return [f"{name} {value:.3f} ({value - plain[name]:+.3f})" for name, value in scores.items()]


def _uint8(pixels: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _mean_loss(found: dict[str, dict[str, Scores]], name: str, score: str) -> float:
    losses = [of[name][score] - of["as it is"][score] for of in found.values() if score in of["as it is"]]
    return float(np.mean(losses)) if losses else math.nan


def main() -> None:
    """Measure the networks that are asked for; both that ship without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--detector", type=Path, default=NUCLEUS_DETECTOR)
    parser.add_argument("--ndc", type=Path)
    parser.add_argument("--only", choices=("detector", "ndc"))
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth image of a source")
    wanted = parser.parse_args()
    data = read_datasets(read_datasets_file(wanted.datasets), wanted.data)
    kept = tuple(replace(one, validation=one.validation[:: wanted.every]) for one in data.sources)
    data = LabelledData(data.class_names, kept)
    answer = {}
    if wanted.only != "ndc":
        detector = LearnedDetector.from_file(wanted.detector)
        answer["detector"] = measured(data, lambda regions: detector_scores(detector, regions))
    if wanted.only != "detector":
        model = NdcModel(wanted.ndc)
        answer["ndc"] = measured(data, lambda regions: ndc_scores(model, regions, data.class_names))
    for network, found in answer.items():
        for name in CHANGES:
            losses = {score: _mean_loss(found, name, score) for score in ("f1", "class_f1")}
            print(f"{network:9} mean over sources, {name:14}", *(f"{k} {v:+.4f}" for k, v in losses.items()))
    print(json.dumps(answer))


if __name__ == "__main__":
    own_process()
    main()
