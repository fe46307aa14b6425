"""Representations scored by folds of cases, where a dataset has no split of its own: a lab's folder, or all of one.

Every nucleus is judged by a bank, or a layer, of the other cases. KNN tells the best k over all folds together, as the
paper does on its split; of the linear layer, the fold after the one that is judged chooses the epoch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muse_core.errors import ConfigError
from muse_core.evaluate.representation.accuracy import accuracy_percent, accuracy_report
from muse_core.evaluate.representation.encoders import SEED, MapEncoder, NucleusEncoder
from muse_core.evaluate.representation.features import NucleusFeatures, extract_features
from muse_core.evaluate.representation.knn import KS, nearest, usable_ks, vote
from muse_core.evaluate.representation.linear import LinearSettings, predict, train_linear
from muse_core.evaluate.representation.protocols import EvaluationRequest
from muse_core.evaluate.representation.tiles import cut_tiles, made_up
from muse_core.labels import LabelledPatch
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region, regions_of
from muse_core.ndc.folds import case_folds

LAB = "lab"

OnTiles = Callable[[str, int, int], None]  # fold, tiles done, nuclei in them


class FoldFeatures:
    """Features of the nuclei of each fold.

    Args:
        request: what is scored; its split has no say.
        class_names: of the nuclei.
        folds: of each fold.
        notes: for people.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        class_names: tuple[str, ...],
        folds: Sequence[NucleusFeatures],
        notes: Sequence[str],
    ) -> None:
        self.request, self.class_names, self.folds, self.notes = request, class_names, list(folds), list(notes)

    def all_but(self, *left_out: int) -> tuple[Tensor, Tensor]:
        """Features and classes of the other folds."""
        kept = [fold for number, fold in enumerate(self.folds) if number not in left_out]
        return torch.cat([fold.features for fold in kept]), torch.cat([fold.class_ids for fold in kept])

    def report(self, task: str, predicted: Sequence[Tensor]) -> dict[str, Any]:
        """What both protocols tell: all nuclei together, and each fold's accuracy."""
        request = self.request
        each = [accuracy_percent(one, fold.class_ids) for one, fold in zip(predicted, self.folds, strict=True)]
        truth = torch.cat([fold.class_ids for fold in self.folds])
        return {
            "task": task,
            "dataset": request.dataset,
            "split": f"{len(self.folds)} folds by case",
            "checkpoint": request.checkpoint,
            "protocol": f"{request.mpp:g} um/px, {request.fov_px} px, {request.coordinates} coordinates",
            "radius_um": None,
            "mpp": request.mpp,
            "fov_px": request.fov_px,
            "coordinates": request.coordinates,
            **accuracy_report(torch.cat(list(predicted)), truth, self.class_names),
            "by_fold": each,
            "fold_sd": float(np.std(each, ddof=1)),
            "notes": self.notes,
        }


def read_folds(
    encoder: NucleusEncoder | MapEncoder,
    request: EvaluationRequest,
    folds: int,
    *,
    batch_tiles: int = 8,
    on_tiles: OnTiles = lambda fold, tiles, nuclei: None,
) -> FoldFeatures:
    """Read all that is labelled, part it by cases, and encode it once.

    Raises:
        ConfigError: unknown dataset, more folds than cases, or nuclei of one class alone.
        DatasetError: the data, or what the encoder returned, are not what they should be.
    """
    patches = _labelled(request.dataset, request.data)
    names = patches[0].class_names
    if len(names) < 2:
        raise ConfigError(f"--data {request.data}: all nuclei are {names[0]}; at least two classes can be told apart")
    parts = case_folds(regions_of(patches), folds)
    found = []
    for number, rows in enumerate(parts, 1):
        members = [patches[row] for row in sorted(rows)]
        tiles = cut_tiles(members, request.tiles)
        report = _told(on_tiles, f"fold {number}")
        found.append(
            extract_features(encoder, tiles, batch_tiles=batch_tiles, name=request.checkpoint, on_batch=report)
        )
    return FoldFeatures(request, names, found, made_up(patches, request.tiles))


def _told(on_tiles: OnTiles, fold: str) -> Callable[[int, int], None]:
    return lambda tiles, nuclei: on_tiles(fold, tiles, nuclei)


def _labelled(dataset: str, data: Path) -> list[LabelledPatch]:
    """All labelled patches but those of a test split; of a lab, its images or regions."""
    if dataset != LAB:
        request = EvaluationRequest(dataset, data)
        return [patch for split in request.splits for patch in request.patches(split)]
    dots = read_lab(data)
    train, validation = lab_regions(dots, side_px=1)
    regions = train if validation is train else [*train, *validation]
    return [_patch(region, dots.class_names) for region in regions]


def _patch(region: Region, class_names: tuple[str, ...]) -> LabelledPatch:
    known = region.class_ids != UNKNOWN_CLASS
    return LabelledPatch(
        region.name,
        region.image,
        region.xy[known],
        region.class_ids[known],
        class_names,
        region.mpp,
        case=region.case,
        annotated=region.annotated,
    )


def knn_by_folds(scored: FoldFeatures, *, ks: Sequence[int] = KS) -> dict[str, Any]:
    """K-nearest-neighbour accuracy: `accuracy_report` over all nuclei at the best `k`, `by_k`, `by_fold`, `fold_sd`.

    Raises:
        ConfigError: a k below 1.
    """
    smallest = min(len(scored.all_but(number)[0]) for number in range(len(scored.folds)))
    used = usable_ks(ks, smallest)
    predicted: dict[int, list[Tensor]] = {k: [] for k in used}
    for number, fold in enumerate(scored.folds):
        features, class_ids = scored.all_but(number)
        neighbours = nearest(features, fold.features, max(used))
        for k, found in vote(neighbours, class_ids, used, n_classes=len(scored.class_names)).items():
            predicted[k].append(found)
    truth = torch.cat([fold.class_ids for fold in scored.folds])
    by_k = {k: accuracy_percent(torch.cat(found), truth) for k, found in predicted.items()}
    best = max(by_k, key=lambda k: (by_k[k], -k))
    answer = scored.report("knn", predicted[best])
    return answer | {"k": best, "by_k": {str(k): value for k, value in by_k.items()}, "n_bank": smallest}


def linear_by_folds(
    scored: FoldFeatures, *, settings: LinearSettings | None = None, seed: int = SEED
) -> dict[str, Any]:
    """Accuracy of a linear layer a fold, of the epoch best on the fold after it; `epochs` names them.

    Raises:
        ConfigError: two folds: none is left to learn from beside the one that chooses.
    """
    count = len(scored.folds)
    if count < 3:
        raise ConfigError(f"--folds {count}: a linear layer needs 3, of which one chooses the epoch")
    predicted, epochs = [], []
    for number, fold in enumerate(scored.folds):
        chooses = (number + 1) % count
        validation = scored.folds[chooses]
        result = train_linear(
            scored.all_but(number, chooses),
            (validation.features, validation.class_ids),
            n_classes=len(scored.class_names),
            settings=settings,
            seed=seed,
        )
        predicted.append(predict(result.layer, fold.features))
        epochs.append(result.epoch)
    return scored.report("linear", predicted) | {"epochs": epochs}
