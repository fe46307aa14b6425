"""Train the nucleus detector that ships: labelled images of any number of datasets to weights, a curve and a record.

Each step's pictures are drawn from (seed, step) alone, so a run that was stopped goes on as if it had not been.
Validation picks among the averaged weights of the last epochs and calibrates the score; each dataset counts alike, so
that none is bought with another. Nothing of a test split is read.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_core.config import settings_hash
from muse_core.detector.augment import random_view
from muse_core.detector.calibrate import RADIUS_UM, best_threshold, calibrated, counts_by_source, tops_of
from muse_core.detector.calibration import Calibration
from muse_core.detector.settings import TrainDetectorSettings
from muse_core.detector.weights_file import DetectorWeights, load_model, save_model
from muse_core.errors import ConfigError, DatasetError
from muse_core.labels.datasets import LabelledData, Source
from muse_core.labels.matching import Counts
from muse_core.labels.regions import Region, fingerprint
from muse_core.labels.turns import regions_in_turn
from muse_core.machine.device import best_dtype
from muse_core.machine.files import whole_file
from muse_core.machine.lock import locked
from muse_core.machine.threads import torch_threads
from muse_core.models.detector import NucleusNet, load_imagenet_encoder, parameter_count
from muse_core.models.heat import NO_CLASS, draw_heat
from muse_core.models.tensor_file import hash_of
from muse_core.training.average import follow
from muse_core.training.checkpoint import (
    DETECTOR_TRAINING,
    Checkpoint,
    load_optimiser,
    load_part,
    optimiser_tensors,
    part_of,
    save_checkpoint,
    under,
)
from muse_core.training.progress import Progress
from muse_core.training.resume import check_begun_with, stored_state
from muse_core.training.schedules import warmed_cosine

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "nucleus-detector.safetensors"
RECORD_NAME = "training.json"
CURVES_NAME = "curves.png"
CONFIG_NAME = "config.json"

_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class TrainingResult:
    """What a run made.

    Attributes:
        weights: the safetensors file; it is written at the end alone.
        f1: on validation, at the threshold that the scores are calibrated to; NaN before the end.
        threshold_heat: that threshold, in the network's heat; NaN before the end.
        seconds: of all sittings together.
        n_parameters: of the network.
        step, steps: done, and to do in all; fewer are done where the run was asked to stop.
    """

    weights: Path
    f1: float
    threshold_heat: float
    seconds: float
    n_parameters: int
    step: int
    steps: int


def train_detector(
    data: LabelledData,
    out: Path,
    *,
    settings: TrainDetectorSettings | None = None,
    init: Path | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train on the training parts, select and calibrate on validation, and write weights, record and curves into `out`.

    Args:
        data: of `labels.datasets`; sources without a training part are scored all the same.
        out: a folder; made if need be.
        settings: the recipe; None for that of the weights that ship.
        init: weights of an earlier run to start from, whatever `settings.imagenet` says.
        resume: go on from `out`'s last state, if there is one of the same settings and data.
        should_stop: asked after each step; once it says yes, the state is written and the run ends early.
        on_progress: called now and then.

    Returns:
        Where the weights are and how good they were.

    Raises:
        DatasetError: there is nothing to train on or nothing to validate by, or the loss is no longer a number.
        ConfigError: `out` holds a run that is not to be resumed, or its state is of other settings or data or damaged;
            or ImageNet weights are asked for and not installed.
        OutputError: `out` cannot be written or is in use.
    """
    settings = settings or TrainDetectorSettings()
    train, validation = data.train, data.validation
    if not train or not validation:
        raise DatasetError(
            f"{out}: {len(train)} images to train on, {len(validation)} to validate by; some of each needed"
        )
    with torch_threads(settings.threads), locked(out):
        stored = stored_state(out, DETECTOR_TRAINING, resume=resume)
        run = _Run(settings, out, init, data)
        if stored is not None:
            run.go_on_from(stored)
        _write_text(out / CONFIG_NAME, settings.model_dump_json(indent=1))
        _train(run, on_progress, should_stop)
        f1, threshold = _finish(run) if run.step == settings.steps else (math.nan, math.nan)
    n_parameters = parameter_count(run.net)
    return TrainingResult(out / WEIGHTS_NAME, f1, threshold, run.seconds, n_parameters, run.step, settings.steps)


def _train(run: "_Run", on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> None:
    """The loop: steps, and between them what is validated, kept and told."""
    settings, stop = run.settings, False
    while run.step < settings.steps and not stop:
        run.advance()
        stop = should_stop()
        due = run.step % settings.validate_every == 0 or run.step == settings.steps
        if due:
            run.validate()
        if due or stop:
            run.save()
        if run.step % 20 == 0 or run.step == settings.steps:
            on_progress(run.progress())


class _Run:
    """The state of a training run: network, its running average, optimiser, step and history."""

    def __init__(self, settings: TrainDetectorSettings, out: Path, init: Path | None, data: LabelledData) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.out, self.data = settings, out, data
        self.identity = fingerprint([*data.train, *data.validation]) + (_id_of(init) if init else "")
        self.weights = {source.name: source.weight for source in data.sources}
        self.bfloat16 = best_dtype("cpu") == torch.bfloat16  # emulated, it would be slower than float32
        self.net = NucleusNet(len(data.class_names))
        if init is not None:
            _start_from(self.net, init)
        elif settings.imagenet:
            load_imagenet_encoder(self.net)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        encoder = list(self.net.encoder.parameters())
        others = [p for name, p in self.net.named_parameters() if not name.startswith("encoder.")]
        rate = settings.learning_rate
        groups = [{"params": encoder, "lr": rate * settings.encoder_rate}, {"params": others, "lr": rate}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.step, self.seconds, self.best_f1 = 0, 0.0, -1.0
        self.losses: list[float] = []
        self.validations: list[tuple[int, float]] = []

    def advance(self) -> None:
        """One step of training."""
        started = time.perf_counter()
        share = warmed_cosine(self.step, self.settings.steps, warmup_steps=self.settings.warmup_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        images, heat, classes, known = _batch(self.data.train, self.weights, self.step, self.settings)
        self.net.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.net(images)
        loss = _loss(logits, heat, classes, known, self.settings)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.net, step=self.step, steps=self.settings.average_steps)
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise DatasetError(f"{self.out}: the loss is {self.losses[-1]} at step {self.step}; lower learning_rate")
        self.seconds += time.perf_counter() - started

    def validate(self) -> None:
        """Score the average on validation; keep it where it is the best so far."""
        started = time.perf_counter()
        tops = tops_of(self.model(self.average), self.data.validation)
        _, f1 = best_threshold(tops, self.data.validation)
        self.validations.append((self.step, f1))
        logger.info("step %d of %d: validation F1 %.4f", self.step, self.settings.steps, f1)
        if f1 > self.best_f1:
            self.best_f1 = f1
            self.best.load_state_dict(self.average.state_dict())
        self.seconds += time.perf_counter() - started

    def model(self, net: NucleusNet, calibration: Calibration | None = None) -> DetectorWeights:
        """A detector's model around one of this run's networks."""
        return DetectorWeights(net, calibration or Calibration(), self.settings.min_distance_um, self.data.class_names)

    def progress(self) -> Progress:
        """Where the run stands."""
        just_validated = self.validations and self.validations[-1][0] == self.step
        f1 = self.validations[-1][1] if just_validated else None
        return Progress(self.step, self.settings.steps, float(np.mean(self.losses[-20:])), self.seconds, f1)

    def save(self) -> None:
        """Replace the state that `go_on_from` takes, or leave the old one as it was.

        Raises:
            OutputError: no space is left, or the folder cannot be written.
        """
        tensors = {
            **under("net", self.net.state_dict()),
            **under("average", self.average.state_dict()),
            **under("best", self.best.state_dict()),
            **under("optimiser", optimiser_tensors(self.optimizer, self._names)),
        }
        about = {
            "settings": self.settings.model_dump(mode="json"),
            "data": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "best_f1": self.best_f1,
            "losses": self.losses,
            "validations": self.validations,
        }
        save_checkpoint(self.out / DETECTOR_TRAINING.file_name, tensors, about, DETECTOR_TRAINING)

    def go_on_from(self, stored: Checkpoint) -> None:
        """Take up a state that `save` wrote.

        Raises:
            ConfigError: it is of other settings or data.
        """
        about = stored.about
        now = {"settings": self.settings.model_dump(mode="json"), "data": self.identity}
        check_begun_with(self.out / DETECTOR_TRAINING.file_name, about, now, {"data": "other data"})
        for name in ("net", "average", "best"):
            load_part(getattr(self, name), stored, name)
        load_optimiser(self.optimizer, self._names, part_of(stored, "optimiser"))
        self.step, self.seconds, self.best_f1 = about["step"], about["seconds"], about["best_f1"]
        self.losses = about["losses"]
        self.validations = [(int(step), float(f1)) for step, f1 in about["validations"]]

    @property
    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.net.named_parameters()}


def _batch(
    regions: Sequence[Region], weights: Mapping[str, float], step: int, settings: TrainDetectorSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures of a step with their targets: (B, 3, n, n) 0..255, heat, classes and known pixels (B, n / 2, n / 2)."""
    rng = np.random.default_rng([settings.seed, step])
    images, heats, classes, known = [], [], [], []
    key = [settings.seed, 1 << 20]
    for region in regions_in_turn(regions, weights, step=step, count=settings.batch_size, key=key):
        view = random_view(region, settings.side_px, settings.augment, rng)
        heat, class_map = draw_heat(view.xy, view.class_ids, settings.side_px, sigma_px=settings.sigma_px)
        images.append(view.image)
        heats.append(heat)
        classes.append(class_map)
        known.append(view.valid[::2, ::2])
    batch = torch.from_numpy(np.stack(images)).permute(
        0, 3, 1, 2
    )  # (B, n, n, 3) -> (B, 3, n, n), channels last in memory
    return batch.float(), *(torch.from_numpy(np.stack(maps)) for maps in (heats, classes, known))  # type: ignore[return-value]


def _loss(logits: Tensor, heat: Tensor, classes: Tensor, known: Tensor, settings: TrainDetectorSettings) -> Tensor:
    """Cross entropy with the heat, heavier near nuclei, plus that of the classes at nuclei.

    Args:
        logits: (B, 1 + classes, h, w).
        heat: (B, h, w) 0..1.
        classes: (B, h, w) int64, `NO_CLASS` where there is none.
        known: (B, h, w) bool.
        settings: the weights.
    """
    weight = known * (1 + settings.near_weight * heat)
    each = functional.binary_cross_entropy_with_logits(logits[:, 0], heat, reduction="none")
    loss = (each * weight).sum() / weight.sum().clamp(min=1)
    if settings.class_weight and logits.shape[1] > 1 and bool((classes != NO_CLASS).any()):
        loss = loss + settings.class_weight * functional.cross_entropy(logits[:, 1:], classes, ignore_index=NO_CLASS)
    return loss


def _finish(run: _Run) -> tuple[float, float]:
    """Calibrate the best network and write everything; its F1 on validation, and the heat it is reached at."""
    validation = run.data.validation
    tops = tops_of(run.model(run.best), validation)
    calibration = calibrated(tops, validation)
    by_source = counts_by_source(tops, validation, calibration.heat_at_half)
    f1 = float(np.mean([counts.f1 for counts in by_source.values()]))
    names = "+".join(source.name for source in run.data.sources if source.train)
    notes = {"dataset": names, "settings": settings_hash(run.settings), "validation_f1": f"{f1:.4f}"}
    save_model(run.model(run.best, calibration), run.out / WEIGHTS_NAME, notes=notes)
    record = {
        "f1": f1,
        "sources": [_source_record(source, by_source.get(source.name)) for source in run.data.sources],
        "rule": "mcspatnet",
        "radius_um": RADIUS_UM,
        "calibration": calibration.__dict__,
        "seconds": run.seconds,
        "n_parameters": parameter_count(run.net),
        "validations": run.validations,
        "losses": run.losses,
    }
    _write_text(run.out / RECORD_NAME, json.dumps(record))
    _draw_curves(run, run.out / CURVES_NAME)
    return f1, calibration.heat_at_half


def _source_record(source: Source, counts: Counts | None) -> dict[str, Any]:
    """What a source brought, and its validation part's scores; a source that was left out of training has no images."""
    facts = {"name": source.name, "weight": source.weight, "n_train": len(source.train)}
    if counts is None:
        return facts
    scores = {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    return {**facts, "n_validation": len(source.validation), **scores}


def _start_from(net: NucleusNet, path: Path) -> None:
    """Take an earlier run's weights over; class maps of other classes begin anew."""
    own, given = net.state_dict(), load_model(path).net.state_dict()
    net.load_state_dict({name: given[name] if given[name].shape == own[name].shape else own[name] for name in own})


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _draw_curves(run: _Run, path: Path) -> None:
    """Loss and validation F1 over steps, as a PNG; left out, with a line in the log, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("%s: not drawn, as matplotlib is not installed (pip install 'muse-nuclei[docs]')", path)
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    left = figure.add_subplot()
    window = max(1, len(run.losses) // 60)
    smooth = np.convolve(run.losses, np.ones(window) / window, mode="valid")
    left.plot(np.arange(len(smooth)) + window, smooth, color="0.4", label="training loss")
    left.set(xlabel="step", ylabel="training loss", title=f"Nucleus detector, seed {run.settings.seed}")
    right = left.twinx()
    right.plot(*zip(*run.validations, strict=True), "o-", color="tab:blue", label="validation F1")
    right.set_ylabel(f"validation F1 at {RADIUS_UM:g} µm")
    figure.legend(loc="outside lower center", ncols=2)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _id_of(init: Path) -> str:
    """Changes with the weights that a run begins with."""
    try:
        return hash_of(init)
    except ConfigError:
        raise ConfigError(f"--init {init}: cannot be read; give weights of muse train-detector") from None
