"""Whether an output folder's run may be gone on with."""

from pathlib import Path
from typing import Any

from muse_core.pretrain.settings import PretrainSettings
from muse_core.training.checkpoint import PRETRAINING, Checkpoint
from muse_core.training.resume import check_begun_with, stored_state


def identity(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that decide what comes out, as JSON values."""
    return settings.model_dump(mode="json", exclude={"run", "probe"})


def stored_run(out: Path, settings: PretrainSettings, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None where there is none.

    Raises:
        ConfigError: there is one and `resume` is off, it cannot be read, or it is of other settings.
    """
    stored = stored_state(out, PRETRAINING, resume=resume)
    if stored:
        check_begun_with(out / PRETRAINING.file_name, stored.about, {"settings": identity(settings)})
    return stored
