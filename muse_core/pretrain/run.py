"""The state of a run of pretraining, and its step: student, teacher, centres, optimiser, place in the data.

    step:  views ─teacher─▶ centred probabilities of global views and of nuclei in them
                 ─student─▶ L_image on all views, L_nu on nuclei matched between views  (equations 3, 6, 7)
           AdamW on the student; the teacher moves a little towards it; the centres move towards what the teacher said

Each step's data are drawn from (seed, epoch, ROI) and its other chances from (seed, step, rank), so that a run that was
stopped anywhere goes on as if it had not been.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from muse_core.errors import TrainingError
from muse_core.models.backbone import InputScale, MuseBackbone
from muse_core.models.backbone_file import start_from
from muse_core.pretrain.assembly import build_network, build_student, compile_encoder, heads_of, n_views_decoded
from muse_core.pretrain.feed import Feed
from muse_core.pretrain.guard import StepGuard
from muse_core.pretrain.measures import Measures
from muse_core.pretrain.network import Bottlenecks, Targets
from muse_core.pretrain.optimiser import StudentOptimiser
from muse_core.pretrain.precision import resolved_precision
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.resume import identity
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.training import schedules
from muse_core.training.checkpoint import (
    Checkpoint,
    load_optimiser,
    load_part,
    optimiser_tensors,
    part_of,
    under,
)
from muse_core.training.losses.centre import TeacherCentre
from muse_core.training.losses.image import image_pairing
from muse_core.training.losses.nucleus import matched_nuclei, nucleus_rows, pair_weights
from muse_core.training.losses.sinkhorn import sinkhorn_probabilities
from muse_core.training.thrift import depthwise_in_float32


class PretrainRun:
    """The state of a run.

    Args:
        settings: the recipe.
        feed: where data come from.
        processes: who trains.
        stored: a checkpoint to go on from, or None.

    Raises:
        ConfigError: a checkpoint of another network or dataset, or a backbone to start from that does not fit.
    """

    def __init__(self, settings: PretrainSettings, feed: Feed, processes: Processes, stored: Checkpoint | None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.feed, self.processes = settings, feed, processes
        self.steps = settings.steps or max(1, round(settings.epochs * feed.steps_per_epoch))
        self.step, self.seconds = 0, 0.0
        self.network = build_network(settings, processes, drop_path=settings.backbone.drop_path)
        if settings.backbone.init and stored is None:
            start_from(self.network.backbone, settings.backbone)
        self.teacher = build_network(settings, processes, drop_path=0.0)
        self.teacher.load_state_dict(self.network.state_dict())
        self.teacher.backbone.input = self.network.backbone.input
        self.teacher.requires_grad_(False)
        if settings.run.compile:
            for network in (self.network, self.teacher):
                compile_encoder(network, processes)
        self.centres = nn.ModuleDict(
            {
                name: TeacherCentre(head.n_prototypes, momentum=settings.loss.centre_momentum)
                for name, head in heads_of(self.teacher).items()
            }
        ).to(processes.device)
        self.precision = stored.about["precision"] if stored else None
        self.precision = self.precision or resolved_precision(settings.precision, self.network.backbone, processes)
        if self.precision == "bf16" and processes.device.type == "cpu":
            depthwise_in_float32(self.network)
        self.optimiser = StudentOptimiser(self.network, settings.optimiser, batch_size=settings.batch_size)
        if stored:
            self._restore(stored)
        self.student = build_student(self.network, settings, processes)
        self._guard = StepGuard((self.network, self.teacher), most_in_a_row=settings.run.most_skipped)
        self._guard.skipped = int(stored.about.get("skipped", 0)) if stored else 0
        self._measures = Measures(settings, feed, processes, list(self.centres), step=self.step)
        self.probe: dict[str, Any] = dict(stored.about.get("probe", {})) if stored else {}  # what the last one found

    @property
    def skipped(self) -> int:
        """Steps that were left out, of all sittings."""
        return self._guard.skipped

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        return self.step / self.steps

    def due(self, every: int) -> bool:
        """Whether what is done each so many steps, and after the last, is to be done now."""
        return self.step % every == 0 or self.step == self.steps

    def probed_by(self, probe: Callable[[MuseBackbone], float]) -> dict[str, float]:
        """A probe's accuracy of the teacher as it is, percent, by its name in the record."""
        asked = self.settings.probe
        accuracy = probe(self.teacher.backbone)
        about = {"dataset": asked.dataset, "k": asked.k, "tiles": asked.tiles, "mpp": asked.mpp}
        self.probe = {**about, "step": self.step, "knn_accuracy": accuracy}
        return {"probe_knn": accuracy}

    def advance(self) -> None:
        """One step on the next micro-batches of this process, whose views are cut or waited for.

        Raises:
            TrainingError: it does not fit into the GPU's memory, reason out_of_memory.
        """
        started = time.perf_counter()
        batches = self.feed.next_step(self.progress)
        try:
            self._learn(batches)
        except torch.OutOfMemoryError:
            raise self._too_large(len(batches)) from None
        self.step += 1
        self.seconds += time.perf_counter() - started

    def _too_large(self, micro_batches: int) -> TrainingError:
        rois = self.settings.batch_size // (micro_batches * self.processes.world_size)
        return TrainingError(
            f"step {self.step}: {rois} ROIs at once do not fit into the memory of {self.processes.device}; set "
            f"accumulate={2 * micro_batches} (of the phase, where there are phases) for half as many, or lower "
            "batch_size; the last checkpoint stands",
            reason="out_of_memory",
        )

    def _learn(self, batches: list[ViewBatch]) -> None:
        rank, seed = self.processes.rank, self.settings.seed
        torch.manual_seed((seed * 1_000_003 + self.step) * 4096 + rank)  # for dropped paths
        batches = [batch.to(self.processes.device) for batch in batches]
        self._guard.begin()
        loss, n_global = self.settings.loss, self.settings.views.global_views
        matched = [
            matched_nuclei(batch.valid, n_global=n_global, student_views=loss.nulo_student_views) for batch in batches
        ]
        counts = torch.stack([pairs.sum(dim=2) for pairs in matched]).sum(dim=0)
        weights = pair_weights(counts)  # of the whole step: micro-batches and processes together make one mean
        parts = []
        for index, (batch, pairs) in enumerate(zip(batches, matched, strict=True)):
            with self._unsynced(index < len(batches) - 1), self._autocast():
                targets = self._targets(batch, pairs, weights, share=1 / len(batches))
                image, nucleus = self.student(batch, targets)
            (loss.lambda_image * image + loss.lambda_nu * nucleus).backward()
            parts.append(torch.stack([image, nucleus]).detach())
        losses, norm = torch.stack(parts).sum(dim=0), self.optimiser.gradient_norm()
        self._measures.saw(batches[-1])
        if self.processes.any_of_us(not bool(torch.isfinite(torch.cat([losses, norm[None]])).all())):
            self._skip(batches, losses, norm)
            return
        self._guard.passed()
        self._measures.passed(losses, norm)
        self._update()

    @torch.no_grad()
    def _targets(self, batch: ViewBatch, matched: Tensor, weights: Tensor, *, share: float) -> Targets:
        """What the teacher says of the global views and of the nuclei in them that are matched."""
        rows = nucleus_rows(matched, weights)
        n_global, n_views = len(batch.global_images), len(batch.valid)
        pairing = image_pairing(n_global, n_views, len(batch), device=self.processes.device)
        found: Bottlenecks = self.teacher(
            batch,
            rows.teacher_view,
            rows.teacher_nucleus,
            n_views=n_global,
            n_decoded=min(n_views_decoded(self.settings), n_global),
        )
        temperature = schedules.teacher_temperature(
            self.progress,
            start=self.settings.loss.teacher_temperature,
            end=self.settings.loss.teacher_temperature_end,
            warmup=self.settings.loss.teacher_temperature_warmup,
        )
        said: dict[str, Tensor] = {}
        for (name, head), bottleneck in zip(heads_of(self.teacher).items(), _present(found), strict=True):
            logits = head.last_layer(bottleneck)
            if self.settings.loss.teacher == "sinkhorn":
                said[name] = sinkhorn_probabilities(logits, temperature)
            else:
                centre = self.centres[name]
                assert isinstance(centre, TeacherCentre)
                said[name] = centre.probabilities(logits, temperature)
            self._measures.said(name, said[name], bottleneck)
        return Targets(said.get("image"), said.get("nucleus"), pairing._replace(weight=pairing.weight * share), rows)

    def _update(self) -> None:
        """The student by its gradients, the teacher by the student, the centres by what the teacher said."""
        self.optimiser.step(self.progress)
        momentum = schedules.cosine(self.settings.optimiser.momentum, 1.0, self.progress)
        with torch.no_grad():
            # Parameters only: the teacher's batch norms keep statistics of what the teacher itself sees, as in DINO.
            kept: list[Tensor] = list(self.teacher.parameters())
            torch._foreach_lerp_(kept, list[Tensor](self.network.parameters()), 1 - momentum)
        for centre in self.centres.values():
            assert isinstance(centre, TeacherCentre)
            centre.update()

    def _unsynced(self, more_to_come: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over processes once a step, with its last micro-batch."""
        if more_to_come and isinstance(self.student, DistributedDataParallel):
            return self.student.no_sync()
        return nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _skip(self, batches: list[ViewBatch], losses: Tensor, norm: Tensor) -> None:
        """Leave everything as it was before the step; all processes do so together.

        Raises:
            TrainingError: too many such steps in a row.
        """
        self.optimiser.discard()
        for centre in self.centres.values():
            assert isinstance(centre, TeacherCentre)
            centre.discard()
        self._measures.skipped()
        image, nucleus = losses.tolist()
        found = f"L_image is {image}, L_nu is {nucleus}, the norm of the gradients {float(norm)}"
        self._guard.skip(self.step, found, (slide for batch in batches for slide in batch.slide_ids))

    def measured(self) -> dict[str, Any]:
        """What happened since the last time this was asked; every process must ask.

        Raises:
            TrainingError: a head has collapsed.
        """
        return {
            "step": self.step,
            "epoch": self.feed.epoch,
            **self._measures.row(self.step),
            "skipped_steps": self.skipped,
            "rois_left_out": len(self.feed.left_out),
            "learning_rate": self.optimiser.learning_rate(self.progress),
            "weight_decay": self.optimiser.weight_decay(self.progress),
            "seconds": self.seconds,
        }

    def resolved(self) -> dict[str, Any]:
        """All settings as used, and what was decided on this machine."""
        return {
            **self.settings.model_dump(mode="json"),
            "resolved": {
                "precision": self.precision,
                "processes": self.processes.world_size,
                "device": str(self.processes.device),
                "steps": self.steps,
                "accumulate": self.feed.micro_batches,
                "dataset": self.feed.dataset.fingerprint,
            },
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        return {
            **under("student", self.network.state_dict()),
            **under("teacher", self.teacher.state_dict()),
            **under("centre", self.centres.state_dict()),
            **under("optimiser", optimiser_tensors(self.optimiser.adamw, self.optimiser.names)),
        }

    def about(self) -> dict[str, Any]:
        """All else of a checkpoint, as JSON values."""
        return {
            "settings": identity(self.settings),
            "step": self.step,
            "skipped": self.skipped,
            "left_out": self.feed.left_out,
            "seconds": self.seconds,
            "precision": self.precision,
            "feed": self.feed.state(),
            "input": self.network.backbone.input,
            "probe": self.probe,
        }

    def _restore(self, stored: Checkpoint) -> None:
        load_part(self.network, stored, "student")
        load_part(self.teacher, stored, "teacher")
        load_part(self.centres, stored, "centre")
        if "input" in stored.about:  # of weights that the run was begun with, whose file may be gone
            mean, std = stored.about["input"]
            self.network.backbone.input = self.teacher.backbone.input = InputScale(tuple(mean), tuple(std))
        load_optimiser(self.optimiser.adamw, self.optimiser.names, part_of(stored, "optimiser"))
        self.feed.go_to(stored.about["feed"])
        self.feed.left_out.update(stored.about.get("left_out", {}))
        self.step, self.seconds = int(stored.about["step"]), float(stored.about["seconds"])


def _present(found: Bottlenecks) -> list[Tensor]:
    return [tensor for tensor in found if tensor is not None]
