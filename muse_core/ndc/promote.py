"""Put a fine-tuned checkpoint into use where it is better than the one that is, both scored on the same labels."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from muse_core.errors import ConfigError, DatasetError
from muse_core.labels import read_labelled_patches
from muse_core.labels.lab import read_lab
from muse_core.labels.lab_regions import lab_regions
from muse_core.labels.regions import VALIDATION_REACH_UM, Region, regions_of
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM
from muse_core.labels.summary import summary_of
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.data import LAB, data_of, unlabelled_regions
from muse_core.ndc.judge import judged_rows
from muse_core.ndc.model import NdcModel
from muse_core.ndc.registry import (
    Decision,
    Measure,
    ModelScore,
    add_scores,
    current_checkpoint,
    read_current,
    register_if_better,
)
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.state import identity_of

_ID_DIGITS = 12


@dataclass(frozen=True)
class LabelledRegions:
    """Regions that checkpoints are scored on.

    Attributes:
        dataset: a name in `labelled_patches.READERS`, or lab.
        split: what part of it they are.
        class_names: what their class ids mean.
        regions: the regions.
    """

    dataset: str
    split: str
    class_names: tuple[str, ...]
    regions: list[Region]

    @property
    def measure(self) -> Measure:
        """The main rule on exactly these labels."""
        digest = sha256(repr(self.class_names).encode())
        for region in self.regions:
            digest.update(repr((region.name, region.mpp, region.image.shape)).encode())
            digest.update(region.xy.tobytes() + region.class_ids.tobytes())
        return Measure(
            dataset=self.dataset,
            split=self.split,
            labels_id=digest.hexdigest()[:_ID_DIGITS],
            protocol=MAIN_RULE,
            radius_um=RADIUS_UM,
        )


def run_id(
    dataset: str,
    data: Path,
    *,
    init: str,
    unlabelled: str | None,
    unlabelled_mpp: float | None,
    settings: FinetuneSettings,
) -> str:
    """Twelve hex digits that change with all that a run may not be resumed across: see `state.identity_of`.

    Args:
        dataset: as for `validation_of`.
        data: its folder.
        init: see `start.start_from`.
        unlabelled: where tissue without labels is.
        unlabelled_mpp: µm/px of its images.
        settings: of the fine-tuning.

    Raises:
        ConfigError: unknown dataset, or no such start.
        DatasetError: the data are not what the layout says.
    """
    tissue = unlabelled_regions(unlabelled, mpp=unlabelled_mpp) if unlabelled else []
    found = data_of(dataset, data, unlabelled=tissue, settings=settings)
    identity = identity_of(found, init=init, settings=settings)
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]


def validation_of(dataset: str, data: Path, *, settings: FinetuneSettings) -> LabelledRegions:
    """The regions by which `muse finetune` chooses.

    Args:
        dataset: a name in `labelled_patches.READERS`, or lab.
        data: its folder.
        settings: of the fine-tuning, whose sample size cuts a lab's regions.

    Raises:
        ConfigError: unknown dataset.
        DatasetError: the data are not what the layout says.
    """
    if dataset == LAB:
        dots = read_lab(data)
        return LabelledRegions(dataset, "val", dots.class_names, lab_regions(dots, side_px=settings.side_px)[1])
    patches = read_labelled_patches(dataset, data, "val", labels="dots")
    return LabelledRegions(dataset, "val", patches[0].class_names, regions_of(patches, reach_um=VALIDATION_REACH_UM))


def score_on_validation(checkpoint: Path, dataset: str, data: Path, *, settings: FinetuneSettings) -> ModelScore:
    """The score of a checkpoint on the regions by which `muse finetune` chooses.

    Raises:
        ConfigError: unknown dataset, no such checkpoint, or none of its classes is one of the labels'.
        DatasetError: the data are not what the layout says, or hold no label.
    """
    return score_of(NdcModel(checkpoint), validation_of(dataset, data, settings=settings))


def score_of_folds(answer: Mapping[str, Any], dataset: str, data: Path, *, settings: FinetuneSettings) -> ModelScore:
    """The score that `muse finetune --folds N --json` answers, as one to be compared.

    Raises:
        ConfigError: unknown dataset.
        DatasetError: the data are not what the layout says.
    """
    split = f"{answer['folds']} folds by case"
    return _score_in(answer, _all_labelled(dataset, data, split=split, settings=settings))


def promote(
    registry: Path,
    checkpoint: Path,
    scores: tuple[ModelScore, ...],
    dataset: str,
    data: Path,
    *,
    settings: FinetuneSettings,
) -> Decision:
    """Register a checkpoint if it is better than the one in use.

    The one in use is scored on the same validation regions where it has not been yet; in a registry that is still
    empty it is the weights that ship, if they know any of the classes.

    Args:
        registry: the registry's folder.
        checkpoint: the candidate.
        scores: its scores, the most telling first; one of them `score_on_validation`'s.
        dataset: what they were measured on, as for `validation_of`.
        data: its folder.
        settings: of the fine-tuning.

    Raises:
        ConfigError: the registry's model knows none of the classes, or its file is gone.
        OutputError: the registry cannot be written.
    """
    if not any(_known(registry, score.measure) for score in scores):
        labelled = validation_of(dataset, data, settings=settings)
        if read_current(registry) is not None:
            score_current(registry, labelled)
        elif MUSE_NANO_NDC.exists() and set((shipped := NdcModel(MUSE_NANO_NDC)).class_names) & set(
            labelled.class_names
        ):
            register_if_better(registry, MUSE_NANO_NDC, (score_of(shipped, labelled),))
    return register_if_better(registry, checkpoint, scores)


def _all_labelled(dataset: str, data: Path, *, split: str, settings: FinetuneSettings) -> LabelledRegions:
    """What is learned from and what is chosen by, together."""
    found = data_of(dataset, data, unlabelled=[], settings=settings)
    return LabelledRegions(dataset, split, found.class_names, [*found.labelled, *found.validation])


def _known(registry: Path, measure: Measure) -> bool:
    current = read_current(registry)
    return current is not None and current.score_by(measure) is not None


def score_current(registry: Path, labelled: LabelledRegions) -> None:
    """Note the score of the model in use on labelled regions.

    Raises:
        ConfigError: nothing is registered, its file is gone, or it knows none of the classes.
        OutputError: the registry cannot be written.
    """
    model = NdcModel(current_checkpoint(registry))
    if not set(model.class_names) & set(labelled.class_names):
        raise ConfigError(
            f"{registry}: holds a model of {', '.join(model.class_names)}, none of them a class of {labelled.dataset}; "
            "give a registry folder of its own"
        )
    add_scores(registry, (score_of(model, labelled),))


def score_of(model: NdcModel, labelled: LabelledRegions) -> ModelScore:
    """The score of a model on labelled regions.

    Raises:
        ConfigError: none of its classes is one of the labels'.
        DatasetError: no nucleus is labelled.
    """
    rows = judged_rows(model, labelled.regions, class_names=labelled.class_names)
    return _score_in(summary_of(rows, labelled.class_names, dataset=labelled.dataset), labelled)


def _score_in(summary: Mapping[str, Any], labelled: LabelledRegions) -> ModelScore:
    scores = summary["protocols"][MAIN_RULE]
    if not math.isfinite(scores["mean_class_f1"]):
        raise DatasetError(
            f"{labelled.dataset} {labelled.split}: no nucleus is labelled, so that nothing can be scored"
        )
    return ModelScore(
        measure=labelled.measure,
        mean_class_f1=scores["mean_class_f1"],
        detection_f1=scores["detection"]["f1"],
        class_f1={name: one["f1"] for name, one in scores["classes"].items()},
        n_labels=summary["n_labels"],
    )
