"""Any of the scores of `muse evaluate` by its name, kept as JSON, beside what the paper publishes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from muse_core.detector.detect import load_detector
from muse_core.detector.learned import LearnedDetector
from muse_core.errors import ConfigError
from muse_core.evaluate.detect import evaluate_detector
from muse_core.evaluate.ndc import evaluate_ndc
from muse_core.evaluate.representation import (
    EvaluationRequest,
    evaluate_finetune,
    evaluate_knn,
    evaluate_linear,
    load_encoder,
    published_scores,
    read_features,
)
from muse_core.machine.files import whole_file
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.model import NdcModel
from muse_core.ndc.published import published_ndc
from muse_core.ndc.registry import resolve_checkpoint

ScoreName = Literal["knn", "linear", "finetune", "detect", "ndc"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and on what.

    Attributes:
        dataset: a name in `labelled_patches.READERS`.
        data: its folder.
        split: val or test.
        checkpoint: a backbone for knn, linear and finetune, a detector's weights for detect, a checkpoint of
            `muse finetune` for ndc; None for what ships.
        encoder: instead, for knn, linear and finetune, the name of an encoder.
        mpp: µm/px of the tiles of knn, linear and finetune.
        fov_px: side of those tiles.
        device: where encoders run: cpu or cuda.
    """

    dataset: str
    data: Path
    split: str = "val"
    checkpoint: Path | None = None
    encoder: str | None = None
    mpp: float = 0.5
    fov_px: int = 224
    device: str = "cpu"


def check_score_names(names: Iterable[str]) -> None:
    """Make sure that scores of these names exist.

    Raises:
        ConfigError: one does not, or none is named.
    """
    unknown = [name for name in names if name not in SCORE_NAMES]
    if unknown or not list(names):
        raise ConfigError(f"scores {', '.join(unknown) or '(none)'}: needs one or more of {', '.join(SCORE_NAMES)}")


def evaluate_model(name: ScoreName, what: Evaluation, out: Path) -> dict[str, Any]:
    """One score, as `muse evaluate NAME --json` says it; also written to `OUT/<name>.json`.

    Raises:
        ConfigError: unknown dataset or encoder, or a checkpoint of another kind of model.
        DatasetError: the data are not what the layout says.
        OutputError: the file cannot be written.
    """
    answer = _evaluated(name, what)
    with whole_file(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(answer, indent=1), encoding="utf-8")
    return answer


def _evaluated(name: ScoreName, what: Evaluation) -> dict[str, Any]:
    if name == "detect":
        detector = LearnedDetector(what.checkpoint) if what.checkpoint else load_detector("learned")
        called = str(what.checkpoint or "learned")
        return evaluate_detector(detector, what.dataset, what.data, split=what.split, checkpoint=called)
    if name == "ndc":
        weights = resolve_checkpoint(what.checkpoint)
        called = str(weights or MUSE_NANO_NDC.name)
        model = NdcModel(weights, device=what.device)
        return evaluate_ndc(model, what.dataset, what.data, split=what.split, checkpoint=called)
    request = EvaluationRequest(
        what.dataset, what.data, what.split, what.mpp, what.fov_px, checkpoint=what.encoder or _called(what.checkpoint)
    )
    encoder = load_encoder(what.checkpoint, what.encoder, image_px=what.fov_px, device=what.device)
    if name == "finetune":
        return evaluate_finetune(encoder, request)
    scored = read_features(encoder, request)
    return evaluate_knn(scored) if name == "knn" else evaluate_linear(scored)


def _called(checkpoint: Path | None) -> str:
    return str(checkpoint or "muse-nano")


def score_rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A score and the paper's column below it, as rows of a table.

    Args:
        answer: of `evaluate_model`.

    Returns:
        Rows of score, model, measured (name of the quantity), value (percent), split and source: this run, or the
        paper, which reports its test splits.
    """
    measured, value = _main_figure(answer)
    rows = [_row(answer["task"], answer["checkpoint"], measured, value, answer["split"], "this run")]
    if answer.get("unknown_classes"):
        return rows  # the paper's figures are means over all classes
    rows += [
        _row(answer["task"], method, measured, figure, "test", "published")
        for method, figure in _published(answer["task"], answer["dataset"], answer.get("mpp"))
    ]
    return rows


def _main_figure(answer: Mapping[str, Any]) -> tuple[str, float]:
    """What the score is called, and in percent."""
    if answer["task"] == "detect":
        return f"F1 ({answer['protocol']})", 100 * answer["f1"]
    if answer["task"] == "ndc" and answer["mean_class_f1"] is None:  # the model lacks classes of the dataset
        scores = answer["protocols"][answer["protocol"]]
        return f"detection F1 ({answer['protocol']})", 100 * scores["detection"]["f1"]
    if answer["task"] == "ndc":
        return f"mean class F1 ({answer['protocol']})", 100 * answer["mean_class_f1"]
    return "accuracy", answer["accuracy"]


def _published(name: str, dataset: str, mpp: float | None) -> list[tuple[str, float]]:
    if name == "ndc":
        return [(row.method, row.mean_class_f1) for row in published_ndc(dataset)]
    if name in ("knn", "linear", "finetune"):
        return [(row.method, row.accuracy) for row in published_scores(name, dataset, mpp or 0.5)]  # type: ignore[arg-type]
    return []


def _row(name: str, model: str, measured: str, value: float, split: str, source: str) -> dict[str, Any]:
    return {
        "score": name,
        "model": model,
        "measured": measured,
        "value": round(value, 2),
        "split": split,
        "source": source,
    }


def scores_text(answers: Iterable[Mapping[str, Any]], failures: Mapping[str, str]) -> str:
    """Markdown: each score with the paper's MUSE models beside it, notes, and what failed.

    Args:
        answers: of `evaluate_model`.
        failures: messages by the name of the score.
    """
    lines = ["| score | model | measured | this run | split | published, on test |", "|---|---|---|---:|---|---|"]
    notes: list[str] = []
    for answer in answers:
        own, *published = score_rows(answer)
        shown = ", ".join(f"{row['model']} {row['value']:.2f}" for row in published if "MUSE" in row["model"])
        lines.append(
            f"| {own['score']} | {own['model']} | {own['measured']} | {own['value']:.2f} | {own['split']} | {shown} |"
        )
        notes += [f"- {answer['task']}: {note}" for note in answer.get("notes", ())]
    if notes:
        lines += ["", *notes]
    if failures:
        lines += ["", "Failed:", "", *(f"- {name}: {message}" for name, message in failures.items())]
    return "\n".join(lines) + "\n"
