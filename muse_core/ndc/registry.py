"""Which NDC checkpoint is in use: a folder that holds it, and `current.json`, which says how good it is.

    FOLDER/current.json                 the checkpoint in use: file, sha256, scores, what they were measured on, date
    FOLDER/history.jsonl                every decision, one JSON object a line
    FOLDER/ndc-<12 digits>.safetensors  each checkpoint that ever was in use

A checkpoint is taken where its mean class F1 is higher than that of the one in use, both measured on the same labels
by the same rule; files are copied and compared as bytes, and never unpickled. `muse infer --checkpoint FOLDER` uses it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from muse_core.cohort.home import fetch, working_folder
from muse_core.cohort.objects import ObjectFolder, is_object_url, parent_and_name, url_of_path
from muse_core.config import Settings
from muse_core.errors import ConfigError, OutputError, figure
from muse_core.machine.files import output_errors, safe_name, whole_file
from muse_core.models.quantised import quantised_path
from muse_core.models.tensor_file import sha256_of

CURRENT_NAME = "current.json"
HISTORY_NAME = "history.jsonl"

_WAIT_S = 60.0  # for another run that is registering


class Measure(Settings):
    """What scores were measured on and how; only scores of equal measures can be compared.

    Attributes:
        dataset: its name.
        split: val, or `5 folds by case`.
        labels_id: a hash of the labels: the same dataset may grow.
        protocol: the matching rule.
        radius_um: farthest a nucleus may lie from its label.
    """

    dataset: str
    split: str
    labels_id: str
    protocol: str
    radius_um: float

    def __str__(self) -> str:
        return f"{self.dataset} {self.split} (labels {self.labels_id}), {self.protocol} at {self.radius_um:g} um"


class ModelScore(Settings):
    """F1 by one measure; of detection and of a class None where no such nucleus is labelled or found."""

    measure: Measure
    mean_class_f1: float = Field(ge=0, le=1)
    detection_f1: float | None
    class_f1: dict[str, float | None]
    n_labels: int


class RegisteredModel(Settings):
    """What `current.json` holds.

    Attributes:
        checkpoint: file name in the registry's folder.
        sha256: of the file, all 64 digits.
        scores: each of another measure.
        source: the file that it was copied from.
        registered: when, ISO 8601 in UTC.
    """

    checkpoint: str = Field(pattern=r"^[^/\\]+\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scores: tuple[ModelScore, ...]
    source: str
    registered: str

    def score_by(self, measure: Measure) -> ModelScore | None:
        """Its score by a measure; None where it has none."""
        return next((score for score in self.scores if score.measure == measure), None)


class Decision(Settings):
    """What came of offering a checkpoint.

    Attributes:
        taken: whether it is in use now.
        reason: why, in a sentence.
        candidate: its score that was compared.
        in_use: that of the checkpoint in use before by the same measure; None where there was none.
        current: what is in use now.
    """

    taken: bool
    reason: str
    candidate: ModelScore
    in_use: ModelScore | None
    current: RegisteredModel


def read_current(folder: Path) -> RegisteredModel | None:
    """What is in use; None where the folder holds no `current.json`.

    Raises:
        ConfigError: the file is not one, or cannot be read.
    """
    path = folder / CURRENT_NAME
    try:
        return RegisteredModel.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path}: not a registry's ({first}); mend it or give another folder") from None


def current_checkpoint(folder: Path) -> Path:
    """The checkpoint in use, its bytes checked.

    Raises:
        ConfigError: nothing is registered there, or the file is gone or another.
    """
    current = read_current(folder)
    if current is None:
        raise ConfigError(f"checkpoint {folder}: a folder without {CURRENT_NAME}; give a file, or a registry's folder")
    path = folder / current.checkpoint
    if not path.is_file() or sha256_of(path) != current.sha256:
        raise ConfigError(f"{path}: gone, or not the file that was registered; register a checkpoint again")
    return path


def resolve_checkpoint(path: str | Path | None) -> Path | None:
    """A registry's folder to the checkpoint in use; a file, and None, as they are; a URL to what was fetched from it.

    Raises:
        ConfigError: a folder where nothing is registered, or its file is gone or another; nothing at the URL.
        OutputError: the store cannot be read.
    """
    path = path if path is None else url_of_path(path)
    path = _fetched(path) if isinstance(path, str) and is_object_url(path) else path
    path = Path(path) if isinstance(path, str) else path
    return current_checkpoint(path) if path is not None and path.is_dir() else path


def _fetched(url: str) -> Path:
    """A checkpoint or a registry's folder in a store, here: the checkpoint, or the folder with the one in use."""
    parent, name = parent_and_name(url.rstrip("/"))
    if name.endswith(".safetensors"):
        folder = Path(working_folder(f"fetched-{safe_name(parent)}"))
        quantised = quantised_path(Path(name)).name
        if not fetch(ObjectFolder(parent), [name, quantised], folder)[name]:
            raise ConfigError(f"checkpoint {url}: no such object; give a .safetensors file of muse")
        return folder / name
    store, folder = ObjectFolder(url), Path(working_folder(f"fetched-{safe_name(url.rstrip('/'))}"))
    weights = [one for one in store.states() if "/" not in one and one.endswith(".safetensors")]
    # Its record in any case: where there is none any more, that of an earlier time must not stand for it.
    fetch(store, [CURRENT_NAME, *weights], folder)
    return folder


def add_scores(folder: Path, scores: tuple[ModelScore, ...]) -> RegisteredModel:
    """Note further scores of the checkpoint in use; those of a known measure replace the earlier ones.

    Raises:
        ConfigError: nothing is registered there.
        OutputError: the folder cannot be written.
    """
    with _locked(folder):
        current = read_current(folder)
        if current is None:
            raise ConfigError(f"{folder}: nothing is registered there")
        measures = {score.measure for score in scores}
        kept = tuple(score for score in current.scores if score.measure not in measures)
        return _write(folder, current.model_copy(update={"scores": (*kept, *scores)}))


def register_if_better(folder: Path, checkpoint: Path, scores: tuple[ModelScore, ...]) -> Decision:
    """Take a checkpoint into use where none is, or where it is better than the one in use.

    Args:
        folder: the registry's; made where it is missing.
        checkpoint: a safetensors file; it is copied.
        scores: its scores; the first whose measure the one in use has been measured by too is compared.

    Returns:
        What was compared and decided. An equal score changes nothing.

    Raises:
        ConfigError: no such file, or no measure in common with the one in use.
        OutputError: the folder cannot be written, or another run holds it.
    """
    if not checkpoint.is_file() or checkpoint.suffix != ".safetensors":
        raise ConfigError(f"{checkpoint}: no such file, or not .safetensors; give a checkpoint of muse finetune")
    with _locked(folder):
        current = read_current(folder)
        candidate, known = _compared(folder, scores, current)
        taken = known is None or candidate.mean_class_f1 > known.mean_class_f1
        if taken:
            current = _write(folder, _copied(folder, checkpoint, scores))
        assert current is not None, "without one in use the first is taken"
        decision = Decision(
            taken=taken, reason=_reason(candidate, known), candidate=candidate, in_use=known, current=current
        )
        _note(folder, decision, checkpoint)
    return decision


def _compared(
    folder: Path, scores: tuple[ModelScore, ...], current: RegisteredModel | None
) -> tuple[ModelScore, ModelScore | None]:
    """The candidate's score and that of the one in use, by the first measure that both have."""
    if current is None:
        return scores[0], None
    for score in scores:
        known = current.score_by(score.measure)
        if known is not None:
            return score, known
    theirs = "; ".join(str(score.measure) for score in current.scores)
    ours = "; ".join(str(score.measure) for score in scores)
    raise ConfigError(f"{folder}: the checkpoint in use was measured on {theirs}; measure it on {ours} first")


def _reason(candidate: ModelScore, known: ModelScore | None) -> str:
    if known is None:
        return f"the first to be registered: mean class F1 {candidate.mean_class_f1:.4f} on {candidate.measure}"
    word = "above" if candidate.mean_class_f1 > known.mean_class_f1 else "not above"
    return (
        f"mean class F1 {figure(candidate.mean_class_f1, known.mean_class_f1, decimals=4)} is {word} the "
        f"{figure(known.mean_class_f1, candidate.mean_class_f1, decimals=4)} of the checkpoint in use"
        f" on {candidate.measure}"
    )


def _copied(folder: Path, checkpoint: Path, scores: tuple[ModelScore, ...]) -> RegisteredModel:
    """The checkpoint's bytes in the registry's folder, under a name made of their hash."""
    digest = sha256_of(checkpoint)
    name = f"ndc-{digest[:12]}.safetensors"
    with whole_file(folder / name) as temporary:
        temporary.write_bytes(checkpoint.read_bytes())
        if sha256_of(temporary) != digest:
            raise OutputError(f"{checkpoint}: changed while it was copied; register it again")
    return RegisteredModel(
        checkpoint=name,
        sha256=digest,
        scores=scores,
        source=str(checkpoint),
        registered=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write(folder: Path, model: RegisteredModel) -> RegisteredModel:
    with whole_file(folder / CURRENT_NAME) as temporary:
        temporary.write_text(model.model_dump_json(indent=1), encoding="utf-8")
    return model


def _note(folder: Path, decision: Decision, checkpoint: Path) -> None:
    """Add a decision to the history: one write, so that a line is there whole or not at all."""
    values = decision.model_dump(mode="json", include={"taken", "reason", "candidate", "in_use"})
    values |= {"source": str(checkpoint), "decided": datetime.now(UTC).isoformat(timespec="seconds")}
    path = folder / HISTORY_NAME
    with output_errors(path), path.open("ab", buffering=0) as file:
        file.write((json.dumps(values) + "\n").encode())
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the registry; the lock dies with the process."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_WAIT_S)
    except Timeout:
        raise OutputError(f"{folder}: another run is registering here; try again", reason="output_locked") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}); give a writable folder") from None
    try:
        yield
    finally:
        lock.release()
