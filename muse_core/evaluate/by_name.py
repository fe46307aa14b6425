"""Any of the scores of `muse evaluate` by its name, kept as JSON, beside what the paper publishes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from muse_core.config import Settings, settings_of
from muse_core.detector.detect import load_detector
from muse_core.detector.learned import LearnedDetector
from muse_core.errors import ConfigError
from muse_core.evaluate.detect import draw_worst, evaluate_detector, score_patches
from muse_core.evaluate.ndc import evaluate_ndc
from muse_core.evaluate.published import published_ndc
from muse_core.evaluate.representation import (
    KS,
    EncoderFinetuneSettings,
    EvaluationRequest,
    LinearSettings,
    draw_neighbours,
    evaluate_finetune,
    evaluate_knn,
    evaluate_linear,
    load_encoder,
    published_scores,
    read_features,
)
from muse_core.evaluate.representation.folds import knn_by_folds, linear_by_folds, read_folds
from muse_core.evaluate.representation.tiles import Coordinates
from muse_core.evaluate.watch import EvaluationWatcher
from muse_core.labels import read_labelled_patches
from muse_core.labels.matching import RULES
from muse_core.labels.scores import NDC_RULES, RADIUS_UM
from muse_core.machine.files import whole_file
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.model import NdcModel
from muse_core.ndc.registry import resolve_checkpoint

ScoreName = Literal["knn", "linear", "finetune", "detect", "ndc"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and on what; what a score has no use for is left alone.

    Attributes:
        dataset: a name in `labels.READERS`.
        data: its folder.
        split: val or test; train too for detect and ndc.
        checkpoint: a backbone for knn, linear and finetune, a detector's weights for detect, a checkpoint of
            `muse finetune` for ndc; None for what ships.
        encoder: instead, for knn, linear and finetune, the name of an encoder.
        mpp: µm/px of the tiles of knn, linear and finetune.
        fov_px: side of those tiles.
        coordinates: of those tiles: `exact`, or `official` for what the published scripts do.
        ks: numbers of neighbours of knn.
        folds: of knn and linear: by cases over all that is labelled, the test split aside; 0 for the dataset's splits.
        detector: instead of a checkpoint, for detect: learned, classical or the dotted name of a callable.
        radius_um: of detect and ndc: farthest that a point may lie from its label.
        min_score: of ndc: nuclei below are not predictions.
        protocol: of detect and ndc: one matching rule, or all.
        device: where encoders and networks run: cpu or cuda.
        picture: PNG to draw nearest neighbours (knn) or the worst patches (detect, ndc) into.
    """

    dataset: str
    data: Path
    split: str = "val"
    checkpoint: Path | None = None
    encoder: str | None = None
    mpp: float = 0.5
    fov_px: int = 224
    coordinates: Coordinates = "exact"
    ks: tuple[int, ...] = KS
    folds: int = 0
    detector: str = "learned"
    radius_um: float = RADIUS_UM
    min_score: float = 0.5
    protocol: str = "all"
    device: str = "cpu"
    picture: Path | None = None

    @property
    def called(self) -> str:
        """What answers call the backbone or encoder."""
        if self.encoder is not None:
            return f"{self.encoder} with {self.checkpoint}" if self.checkpoint else self.encoder
        return str(self.checkpoint or "muse-nano")


def check_score_names(names: Iterable[str]) -> None:
    """Make sure that scores of these names exist.

    Raises:
        ConfigError: one does not, or none is named.
    """
    unknown = [name for name in names if name not in SCORE_NAMES]
    if unknown or not list(names):
        raise ConfigError(f"scores {', '.join(unknown) or '(none)'}: needs one or more of {', '.join(SCORE_NAMES)}")


def evaluate_model(
    name: ScoreName,
    what: Evaluation,
    out: Path | None = None,
    *,
    settings: Settings | Mapping[str, Any] | None = None,
    watcher: EvaluationWatcher | None = None,
) -> dict[str, Any]:
    """One score, as `muse evaluate NAME --json` says it.

    Args:
        name: of the score.
        what: the model and the data.
        out: a folder that gets it as `<name>.json` too; None for no file.
        settings: of linear and finetune.
        watcher: told how it comes on.

    Raises:
        ConfigError: unknown dataset, encoder or protocol, or a checkpoint of another kind of model.
        DatasetError: the data are not what the layout says.
        OutputError: the file cannot be written.
    """
    check_score_names([name])
    if name == "detect":
        answer = _detect(what)
    elif name == "ndc":
        answer = _ndc(what)
    else:
        answer = _representation(name, what, settings, watcher or EvaluationWatcher())
    if out is not None:
        with whole_file(out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(answer, indent=1), encoding="utf-8")
    return answer


def _detect(what: Evaluation) -> dict[str, Any]:
    _check_protocol(what.protocol, tuple(RULES))
    if what.detector == "none" and what.checkpoint is None:
        raise ConfigError("--detector none: finds nothing that could be scored; give learned, classical or a callable")
    detector = LearnedDetector.from_file(what.checkpoint) if what.checkpoint else load_detector(what.detector)
    called = str(what.checkpoint or what.detector)
    answer = evaluate_detector(
        detector, what.dataset, what.data, split=what.split, radius_um=what.radius_um, checkpoint=called
    )
    if what.picture is not None:
        patches = read_labelled_patches(what.dataset, what.data, what.split)
        draw_worst(score_patches(detector, patches, radius_um=what.radius_um), what.picture)
    return answer | _only(what.protocol, answer["protocols"], ("f1", "precision", "recall"))


def _ndc(what: Evaluation) -> dict[str, Any]:
    _check_protocol(what.protocol, tuple(NDC_RULES))
    weights = resolve_checkpoint(what.checkpoint)
    answer = evaluate_ndc(
        NdcModel(weights, device=what.device),
        what.dataset,
        what.data,
        split=what.split,
        radius_um=what.radius_um,
        min_score=what.min_score,
        checkpoint=str(weights or MUSE_NANO_NDC.name),
        picture=what.picture,
    )
    return answer | _only(what.protocol, answer["protocols"], ("mean_class_f1",))


def _check_protocol(protocol: str, rules: tuple[str, ...]) -> None:
    if protocol not in ("all", *rules):
        raise ConfigError(f"--protocol {protocol}: needs all or one of {', '.join(rules)}")


def _only(protocol: str, protocols: Mapping[str, Any], main: tuple[str, ...]) -> dict[str, Any]:
    """What an answer says instead where one rule was asked for."""
    if protocol == "all":
        return {}
    scores = protocols[protocol]
    return {"protocol": protocol, "protocols": {protocol: scores}, **{name: scores[name] for name in main}}


def _representation(
    name: ScoreName, what: Evaluation, settings: Settings | Mapping[str, Any] | None, watcher: EvaluationWatcher
) -> dict[str, Any]:
    request = EvaluationRequest(
        what.dataset, what.data, what.split, what.mpp, what.fov_px, what.coordinates, what.called
    )
    mode = what.coordinates if what.coordinates == "official" else None  # else what the model wants
    encoder = load_encoder(what.checkpoint, what.encoder, image_px=what.fov_px, device=what.device, mode=mode)
    if name == "finetune":
        recipe = settings_of(EncoderFinetuneSettings, settings)
        return evaluate_finetune(encoder, request, settings=recipe, on_tiles=watcher.tiles, on_epoch=watcher.epoch)
    if what.folds:
        by_case = read_folds(encoder, request, what.folds, on_tiles=watcher.tiles)
        if name == "linear":
            return linear_by_folds(by_case, settings=settings_of(LinearSettings, settings))
        return knn_by_folds(by_case, ks=what.ks)
    scored = read_features(encoder, request, on_tiles=watcher.tiles)
    if name == "linear":
        return evaluate_linear(scored, settings=settings_of(LinearSettings, settings))
    answer = evaluate_knn(scored, ks=what.ks)
    if what.picture is not None:
        draw_neighbours(scored, what.picture)
    return answer


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
