"""The state of a run of fine-tuning, and its steps; `ndc.finetune` begins and finishes it.

Validation picks among the averaged weights by the mean class F1 of the rule that is reported; nothing of the test split
is read. A run that was stopped goes on as if it had not been.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from muse_core.errors import TrainingError
from muse_core.labels.patch import UNKNOWN_CLASS
from muse_core.labels.regions import Region
from muse_core.machine.device import best_dtype
from muse_core.machine.threads import torch_threads
from muse_core.models.backbone import BackboneSettings
from muse_core.models.ndc import NdcNet, Proposals
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.batch import Batch, BatchesAhead
from muse_core.ndc.checkpoint import NdcCheckpoint
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.head import NdcHead
from muse_core.ndc.history import History, Validation
from muse_core.ndc.judge import TIE, best_cut, find_on_regions
from muse_core.ndc.model import NdcModel
from muse_core.ndc.objective import Losses, losses_of
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.targets import targets_of
from muse_core.training.average import follow
from muse_core.training.checkpoint import (
    FINETUNING,
    Checkpoint,
    load_optimiser,
    load_part,
    optimiser_tensors,
    part_of,
    save_checkpoint,
    under,
)
from muse_core.training.losses.classification import class_weights
from muse_core.training.losses.consistency import ramp_up
from muse_core.training.progress import Progress
from muse_core.training.schedules import warmed_cosine
from muse_core.training.thrift import depthwise_in_float32, early_stages, freeze_depthwise

logger = logging.getLogger(__name__)

_GRADIENT_NORM = 5.0


class FinetuneRun:
    """The state of a run: network, its running average that is also the teacher, optimiser, step and history.

    Args:
        net: the network to begin with.
        backbone: how its backbone is built.
        data: what it learns from.
        settings: the recipe.
        out: where the state is kept.
        device: where the networks run: cpu or cuda.
        identity: what the run is begun with, see `state.identity_of`; kept with the state.
    """

    def __init__(
        self,
        net: NdcNet,
        backbone: BackboneSettings,
        data: FinetuneData,
        *,
        settings: FinetuneSettings,
        out: Path,
        device: str = "cpu",
        identity: Mapping[str, Any],
    ) -> None:
        self.identity = identity
        self.device = torch.device(device)
        self.net, self.backbone, self.data, self.settings, self.out = net, backbone, data, settings, out
        self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.freeze_depthwise:
            freeze_depthwise(net)
        self.frozen = early_stages(net.backbone.encoder.encoder, settings.freeze_stages or 0)
        self.average = copy.deepcopy(net).eval().requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        if self.device.type == "cpu":
            depthwise_in_float32(net, frozen=self.frozen)  # after the copies: theirs must not run on these weights
        self.optimizer = torch.optim.AdamW(_groups(net, settings), weight_decay=settings.weight_decay)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        ids = np.concatenate([region.class_ids for region in data.labelled])
        counts = torch.from_numpy(np.bincount(ids[ids != UNKNOWN_CLASS], minlength=len(data.class_names)))
        power, background = settings.loss.class_power, settings.loss.background_weight
        self.weights = class_weights(counts, power=power, background=background).to(self.device)
        self.batches = BatchesAhead(data.labelled, data.unlabelled, settings, weights=data.weights)
        self.step = 0
        self.history = History()

    @property
    def head(self) -> NdcHead:
        """How the network in training is read."""
        model = self.settings.model
        return NdcHead(
            self.data.class_names,
            spacing_px=model.spacing_px,
            hidden=model.hidden,
            kernel=model.kernel,
            dense_hidden=model.dense_hidden,
            min_distance_um=self.settings.min_distance_um,
            readout="heat" if self.settings.loss.dense else "proposals",
        )

    def checkpoint(self, net: NdcNet) -> NdcCheckpoint:
        """One of this run's networks with all that is needed to use it, not calibrated."""
        return NdcCheckpoint(net, self.backbone, self.head, {})

    def advance(self) -> None:
        """One step of training."""
        started = time.perf_counter()
        share = warmed_cosine(self.step, self.settings.steps, warmup_steps=self.settings.warmup_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        torch.manual_seed(_seed_of(self.step, self.settings))  # dropout too is drawn from the seed and the step alone
        losses = self._losses(self.batches.of_step(self.step))
        self.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.net, step=self.step, steps=self.settings.average_steps)
        self.history.losses.append([float(part.detach()) for part in vars(losses).values()])
        if not math.isfinite(self.history.losses[-1][0]):
            raise self._diverged()
        self.history.seconds += time.perf_counter() - started

    def _diverged(self) -> TrainingError:
        return TrainingError(f"{self.out}: the loss is not a number at step {self.step}; lower learning_rate")

    def _losses(self, batch: Batch) -> Losses:
        settings = self.settings.loss
        self.net.train()
        for module in self.frozen:
            module.eval()
        with self._autocast():
            proposals = self.net(self.net.backbone.standardised(batch.images(self.device)))
        if not bool(torch.isfinite(proposals.xy).all() and torch.isfinite(proposals.logits).all()):
            raise self._diverged()
        targets = targets_of(
            proposals,
            batch.samples,
            spacing_px=self.settings.model.spacing_px,
            distance_weight=settings.distance_weight,
        )
        steps = self.settings.steps
        share = ramp_up(self.step, start=round(settings.cons_start * steps), length=round(settings.cons_ramp * steps))
        teacher = None
        if settings.cons and share and batch.has_unlabelled_tissue:
            teacher = self._taught(batch)
        return losses_of(
            proposals,
            targets,
            batch.samples,
            weights=self.weights,
            settings=settings,
            drawn=batch.dense,
            teacher=teacher,
            cons_share=share,
        )

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Proposals:
        """What the teacher says of the pictures with their own colours; its batch norms learn nothing from them."""
        teacher = self.average if self.settings.loss.cons_teacher == "average" else self.net
        training = teacher.training
        teacher.eval()
        with self._autocast():
            said: Proposals = teacher(teacher.backbone.standardised(batch.plain_images(self.device)))
        teacher.train(training)
        for module in self.frozen:
            module.eval()
        return said

    def _autocast(self) -> torch.autocast:
        bfloat16 = best_dtype(self.device) == torch.bfloat16  # emulated, it would be slower than float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def validate(self) -> None:
        """Score the average on validation; keep it where its mean class F1 is as good as the best so far.

        Of steps that so few nuclei cannot tell apart the latest is kept: it has seen more, and its rate was lower.
        """
        started = time.perf_counter()
        found = self.found_by(self.average, self.data.validation)
        latest = Validation(self.step, *best_cut(found, self.data.validation, len(self.data.class_names)))
        best = max((one.mean_class_f1 for one in self.history.validations), default=-1.0)
        self.history.validations.append(latest)
        logger.info("step %d of %d: %s", self.step, self.settings.steps, latest)
        if latest.mean_class_f1 >= best - TIE:
            self.best.load_state_dict(self.average.state_dict())
        self.history.seconds += time.perf_counter() - started

    def found_by(self, net: NdcNet, regions: Sequence[Region]) -> list[NucleiFound]:
        """What one of this run's networks finds on regions, not calibrated."""
        model = NdcModel(self.checkpoint(net), device=str(self.device))
        return find_on_regions(model.candidates, regions)

    def progress(self) -> Progress:
        """Where the run stands."""
        last = self.history.validations[-1] if self.history.validations else None
        f1 = last.mean_class_f1 if last and last.step == self.step else None
        loss = float(np.mean([row[0] for row in self.history.losses[-20:]]))
        return Progress(self.step, self.settings.steps, loss, self.history.seconds, f1)

    def run(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end, validating and saving the state on the way, or to the step after which it shall stop."""
        with torch_threads(self.settings.threads):
            self._train(on_progress, should_stop)

    def _train(self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> None:
        stop = False
        while self.step < self.settings.steps and not stop:
            self.advance()
            stop = should_stop()
            due = self.step % self.settings.validate_every == 0 or self.step == self.settings.steps
            if due:
                self.validate()
            if due or stop:
                self.save()
            if self.step % 10 == 0 or self.step == self.settings.steps:
                on_progress(self.progress())

    def save(self) -> None:
        """Write the state that `restore` goes on from.

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
            "identity": self.identity,
            "step": self.step,
            "seconds": self.history.seconds,
            "losses": self.history.losses,
            "validations": [list(vars(one).values()) for one in self.history.validations],
        }
        save_checkpoint(self.out / FINETUNING.file_name, tensors, about, FINETUNING)

    def restore(self, stored: Checkpoint) -> None:
        """Go on from a state of `state_to_go_on_from`.

        Raises:
            ConfigError: its networks are others.
        """
        for name in ("net", "average", "best"):
            load_part(getattr(self, name), stored, name)
        load_optimiser(self.optimizer, self._names, part_of(stored, "optimiser"))
        about = stored.about
        self.step = about["step"]
        self.history = History(about["seconds"], about["losses"], [Validation(*one) for one in about["validations"]])

    @property
    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.net.named_parameters()}


def _groups(net: NdcNet, settings: FinetuneSettings) -> list[dict[str, object]]:
    """Parameters by learning rate, and those of one dimension (norms, biases) without weight decay."""
    assert settings.learning_rate is not None, "with_rates comes first"
    assert settings.encoder_rate is not None
    groups: list[dict[str, object]] = []
    for in_encoder in (True, False):
        rate = settings.learning_rate * (settings.encoder_rate if in_encoder else 1.0)
        for flat in (True, False):
            members = [
                parameter
                for name, parameter in net.named_parameters()
                if parameter.requires_grad
                and name.startswith("backbone.encoder.") == in_encoder
                and (parameter.ndim < 2) == flat
            ]
            decay = {"weight_decay": 0.0} if flat else {}
            groups.append({"params": members, "lr": rate, **decay})
    return groups


def _seed_of(step: int, settings: FinetuneSettings) -> int:
    return int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0])
