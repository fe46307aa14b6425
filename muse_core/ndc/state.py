"""What a run of fine-tuning was begun with, and whether it may be gone on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse_core.labels.regions import fingerprint
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.start import start_id
from muse_core.training.checkpoint import FINETUNING, Checkpoint
from muse_core.training.resume import check_begun_with, stored_state

if TYPE_CHECKING:
    from muse_core.ndc.finetune_data import FinetuneData

# What a run is begun with besides its settings, by its key in the identity.
_BEGUN_WITH = {
    "init": "another --init",
    "class_names": "other classes",
    "labelled": "other labels to train on",
    "validation": "other labels to validate by",
    "unlabelled": "other tissue without labels",
}


def identity_of(data: "FinetuneData", *, init: str, settings: FinetuneSettings) -> dict[str, Any]:
    """What decides a run's outcome, as JSON values: a run is not gone on with when one of them is another.

    Raises:
        ConfigError: no such start.
    """
    return {
        "settings": settings.model_dump(mode="json"),
        "init": start_id(init),
        "class_names": list(data.class_names),
        "labelled": fingerprint(data.labelled),
        "validation": fingerprint(data.validation),
        "unlabelled": fingerprint(data.unlabelled),
    }


def state_to_go_on_from(out: Path, identity: Mapping[str, Any], *, resume: bool) -> Checkpoint | None:
    """The state in `out` to go on from, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, it cannot be read, or it is of a run that was begun otherwise.
    """
    stored = stored_state(out, FINETUNING, resume=resume)
    if stored:
        check_begun_with(out / FINETUNING.file_name, stored.about["identity"], identity, _BEGUN_WITH)
    return stored
