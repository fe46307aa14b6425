"""Score an NDC model on a split of a labelled dataset, by every published rule on the same predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_core.evaluate.pictures import draw_patches
from muse_core.labels import read_labelled_patches
from muse_core.labels.regions import VALIDATION_REACH_UM, regions_of
from muse_core.labels.scores import MAIN_RULE, RADIUS_UM
from muse_core.labels.summary import summary_of, without_classes
from muse_core.ndc.judge import judged_rows
from muse_core.ndc.model import NdcModel


def evaluate_ndc(
    model: NdcModel,
    dataset: str,
    data: Path,
    *,
    split: str = "val",
    radius_um: float = RADIUS_UM,
    min_score: float = 0.5,
    checkpoint: str = "",
    picture: Path | None = None,
) -> dict[str, Any]:
    """F1 of detection and of each class on a split.

    Classes are compared by name. A prediction of a class that the dataset lacks counts for detection alone. A class
    that the model does not know has no score, and then the classes have no mean.

    Args:
        model: whose answers are judged.
        dataset: a name in `labelled_patches.READERS`.
        data: its folder.
        split: train, val or test.
        radius_um: farthest that a point may lie from its label; at 3 a rule's published radius in px is used on its own
            dataset.
        min_score: nuclei below are not predictions.
        checkpoint: what to call the model in the answer.
        picture: a PNG of the worst patches; None for none.

    Returns:
        `task, dataset, split, checkpoint, protocol, radius_um`, the main rule's `mean_class_f1`, `unknown_classes` of
        the dataset that the model does not know, `notes` for people, and what `summary_of` says.

    Raises:
        ConfigError: unknown dataset or split, or no class of the model's is one of the dataset's.
        DatasetError: the data are not what the layout says.
    """
    patches = read_labelled_patches(dataset, data, split, labels="dots")
    names = patches[0].class_names
    regions = regions_of(patches, reach_um=VALIDATION_REACH_UM)
    rows = judged_rows(model, regions, class_names=names, min_score=min_score)
    unknown = [name for name in names if name not in model.class_names]
    answer = without_classes(summary_of(rows, names, radius_um=radius_um, dataset=dataset), unknown)
    if picture is not None:
        draw_patches(rows, [region.image for region in regions], names, picture)
    return {
        "task": "ndc",
        "dataset": dataset,
        "split": split,
        "checkpoint": checkpoint,
        "protocol": MAIN_RULE,
        "radius_um": radius_um,
        "mean_class_f1": answer["protocols"][MAIN_RULE]["mean_class_f1"],
        "unknown_classes": unknown,
        "notes": [_note(unknown, model.class_names)] if unknown else [],
        **answer,
    }


def _note(unknown: Sequence[str], known: Sequence[str]) -> str:
    return (
        f"the model knows {', '.join(known)}, but not {', '.join(unknown)}: these have no score, and the classes no "
        "mean; fine-tune it on them"
    )
