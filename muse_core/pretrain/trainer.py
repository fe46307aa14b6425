"""MUSE pretraining: a student learns what its own running average says of other views of the same tissue and nuclei.

    step:  views ─teacher─▶ centred probabilities of global views and of nuclei in them
                 ─student─▶ L_image on all views, L_nu on nuclei matched between views  (equations 3, 6, 7)
           AdamW on the student; the teacher moves a little towards it; the centres move towards what the teacher said

Each step's data are drawn from (seed, epoch, ROI) and its other chances from (seed, step, rank), so that a run that was
stopped anywhere goes on as if it had not been.

Source: MUSE, https://arxiv.org/abs/2511.05170, which follows DINO, https://arxiv.org/abs/2104.14294, in all it does not
say; defaults of our own are marked in `settings`.
"""

import logging
import math
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from muse_core.errors import TrainingError
from muse_core.machine.files import output_errors
from muse_core.machine.lock import locked
from muse_core.machine.threads import torch_threads
from muse_core.models.backbone import MuseBackbone, build_backbone
from muse_core.models.backbone_file import start_from
from muse_core.models.heads import ProjectionHead
from muse_core.pretrain.export import BACKBONE_NAME, export, write_json
from muse_core.pretrain.feed import Feed
from muse_core.pretrain.guard import StepGuard
from muse_core.pretrain.metrics import MetricsLog, draw_curves
from muse_core.pretrain.monitors import CollapseWatch, health_of
from muse_core.pretrain.network import Bottlenecks, MuseNetwork, Student, Targets
from muse_core.pretrain.optimiser import StudentOptimiser
from muse_core.pretrain.precision import resolved_precision
from muse_core.pretrain.processes import Processes, averaging_gradients, joined_processes
from muse_core.pretrain.resume import CHECKPOINT_NAME, identity, stored_run
from muse_core.pretrain.settings import HeadSettings, PretrainSettings, load_pretrain_settings
from muse_core.pretrain.standardise import with_standard_map
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.training import schedules
from muse_core.training.checkpoint import (
    Checkpoint,
    keep_previous,
    load_optimiser,
    load_part,
    not_finite,
    optimiser_tensors,
    part_of,
    save_checkpoint,
    under,
)
from muse_core.training.losses.centre import TeacherCentre
from muse_core.training.losses.image import image_pairing
from muse_core.training.losses.nucleus import matched_nuclei, nucleus_rows, pair_weights
from muse_core.training.losses.ranks import world_size
from muse_core.training.losses.sinkhorn import sinkhorn_probabilities
from muse_core.training.thrift import depthwise_in_float32, early_stages, freeze_depthwise

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
TENSORBOARD_NAME = "tensorboard"
TEACHERS_NAME = "teachers"


@dataclass(frozen=True)
class Progress:
    """What a caller may show.

    Attributes:
        step, steps: done, and to do in all.
        loss: lambda_image * L_image + lambda_nu * L_nu of the last logged step; NaN before the first.
        rois_per_s: over all processes, since the line before.
        waited: share of the time spent waiting for data.
    """

    step: int
    steps: int
    loss: float
    rois_per_s: float
    waited: float


@dataclass(frozen=True)
class PretrainResult:
    """What a run made.

    Attributes:
        backbone: the safetensors file of the teacher's backbone.
        step, steps: done, and to do in all; fewer are done where the run was asked to stop.
        loss: of the last logged step.
        seconds: of steps and of cutting or waiting for their views, of all sittings together.
        n_parameters: of the backbone.
    """

    backbone: Path
    step: int
    steps: int
    loss: float
    seconds: float
    n_parameters: int


def pretrain(
    rois: Path | str,
    out: Path,
    *,
    settings: PretrainSettings | None = None,
    device: str = "cpu",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> PretrainResult:
    """Train on a ROI dataset and write the teacher's backbone, a card, curves and checkpoints into `out`.

    Under torchrun every process calls this with the same arguments; the first one writes.

    Args:
        rois: a folder of `muse build-tcga-nu` or `muse import-patches`, or its URL.
        out: a folder; made if need be.
        settings: the recipe; None for that of the weights that ship.
        device: `cpu` or `cuda`.
        resume: go on from `out`'s checkpoint, if there is one.
        should_stop: asked after each step; once it says yes, a checkpoint is written and the run ends early.
        on_progress: called at each logged step, by the first process alone.

    Returns:
        Where the backbone is and how far the run came.

    Raises:
        DatasetError: no dataset, or one that cannot give the views.
        ConfigError: settings that don't fit, or a checkpoint in `out` that is of another run or not to be resumed.
        TrainingError: collapsed, or a loss that is no number; the last checkpoint stays.
        OutputError: `out` cannot be written or is in use.
    """
    settings = settings or load_pretrain_settings(None, [])
    dataset = RoiDataset(rois)
    with torch_threads(settings.run.threads), joined_processes(device) as processes, _held(out, processes):
        stored = stored_run(out, settings, resume=resume)
        run = _Run(settings, Feed(dataset, settings, processes), processes, stored)
        if processes.first:
            write_json(out / CONFIG_NAME, run.resolved())
        return _train(run, out, should_stop, on_progress)


def _train(
    run: "_Run", out: Path, should_stop: Callable[[], bool], on_progress: Callable[[Progress], None]
) -> PretrainResult:
    """The loop: steps, and between them what is told and kept."""
    first, run_settings = run.processes.first, run.settings.run
    log = MetricsLog(out / METRICS_NAME, out / TENSORBOARD_NAME, step=run.step) if first else None
    saved_at, loss, stop = time.monotonic(), math.nan, False
    while run.step < run.steps and not stop:
        run.advance()
        kept_epochs = run_settings.keep_teachers
        if first and kept_epochs and run.feed.at_epoch_end and (run.feed.epoch + 1) % kept_epochs == 0:
            run.keep_teacher(out)
        if run.step % run_settings.log_every == 0 or run.step == run.steps:
            row = run.measured()
            loss = row["loss"]
            if log is not None:
                log.append(row)
                on_progress(Progress(run.step, run.steps, loss, row["rois_per_s"], row["data_wait_share"]))
        stop = run.processes.any_of_us(should_stop())
        due = time.monotonic() - saved_at > 60 * run_settings.checkpoint_minutes
        if first and (due or stop or run.step == run.steps):
            run.save(out)
            draw_curves(out / METRICS_NAME, out / CURVES_NAME)
            saved_at = time.monotonic()
    run.processes.wait()
    n_parameters = sum(parameter.numel() for parameter in run.teacher.backbone.parameters())
    return PretrainResult(out / BACKBONE_NAME, run.step, run.steps, loss, run.seconds, n_parameters)


class _Run:
    """The state of a run: student, teacher, centres, optimiser, place in the data, step.

    Args:
        settings: the recipe.
        feed: where data come from.
        processes: who trains.
        stored: a checkpoint to go on from, or None.
    """

    def __init__(self, settings: PretrainSettings, feed: Feed, processes: Processes, stored: Checkpoint | None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.feed, self.processes = settings, feed, processes
        self.steps = settings.steps or max(1, round(settings.epochs * feed.steps_per_epoch))
        self.step, self.seconds = 0, 0.0
        self.network = self._built(drop_path=settings.backbone.drop_path)
        if settings.backbone.init and stored is None:
            start_from(self.network.backbone, settings.backbone)
        self.teacher = self._built(drop_path=0.0)  # the student alone drops paths, as in DINO
        self.teacher.load_state_dict(self.network.state_dict())
        self.teacher.requires_grad_(False)
        self.centres = nn.ModuleDict(
            {
                name: TeacherCentre(head.n_prototypes, momentum=settings.loss.centre_momentum)
                for name, head in self._heads(self.teacher).items()
            }
        ).to(processes.device)
        self.precision = stored.about["precision"] if stored else None
        self.precision = self.precision or resolved_precision(settings.precision, self.network.backbone, processes)
        if self.precision == "bf16" and processes.device.type == "cpu":
            depthwise_in_float32(self.network)
        self.optimiser = StudentOptimiser(self.network, settings.optimiser, batch_size=settings.batch_size)
        if stored:
            self._restore(stored)
        self.student = self._student()
        self._guard = StepGuard((self.network, self.teacher), most_in_a_row=settings.run.most_skipped)
        self._guard.skipped = int(stored.about.get("skipped", 0)) if stored else 0
        self._norms: list[Tensor] = []
        self._watches = {name: CollapseWatch(name) for name in self.centres}
        self._losses: list[Tensor] = []
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._overlap: ViewBatch | None = None
        self._told = (time.perf_counter(), self.feed.waited_s, self.step)

    def _built(self, *, drop_path: float) -> MuseNetwork:
        """A network with the heads that the losses need, on the device."""
        backbone = build_backbone(self.settings.backbone.model_copy(update={"drop_path": drop_path}))
        loss = self.settings.loss
        network = MuseNetwork(
            backbone,
            _head(backbone.image_channels, self.settings.image_head) if loss.lambda_image else None,
            _head(backbone.map_channels, self.settings.nucleus_head) if loss.lambda_nu else None,
        )
        if not loss.lambda_nu and backbone.decoder is not None:
            backbone.decoder.requires_grad_(False)  # nothing reaches it
        optimiser, mode = self.settings.optimiser, self.settings.batch_norm
        if optimiser.freeze_depthwise:
            freeze_depthwise(backbone.encoder)
        still = early_stages(backbone.encoder.encoder, optimiser.freeze_stages)
        if mode == "sync" or (
            mode == "auto" and self.processes.world_size > 1 and self.processes.device.type == "cuda"
        ):
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network.to(self.processes.device).train()
        for module in network.modules() if mode == "frozen" else [part for stage in still for part in stage.modules()]:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return network

    @staticmethod
    def _heads(network: MuseNetwork) -> dict[str, ProjectionHead]:
        heads = {"image": network.image_head, "nucleus": network.nucleus_head}
        return {name: head for name, head in heads.items() if head is not None}

    def _student(self) -> nn.Module:
        """The student up to its losses; among several processes, one whose gradients are averaged over them."""
        loss, views = self.settings.loss, self.settings.views
        local_nuclei = bool(loss.lambda_nu) and loss.nulo_student_views == "all"
        self._n_decoded = 0 if not loss.lambda_nu else views.n_views if local_nuclei else views.global_views
        n_views = views.n_views if loss.lambda_image or local_nuclei else views.global_views
        student = Student(
            self.network,
            n_views=n_views,
            n_decoded=self._n_decoded,
            temperature=loss.student_temperature,
            chunk_rows=loss.chunk_rows,
        )
        return averaging_gradients(student) if self.processes.world_size > 1 else student

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        return self.step / self.steps

    def advance(self) -> None:
        """One step on the next micro-batches of this process, whose views are cut or waited for."""
        started = time.perf_counter()
        self._learn(self.feed.next_step(self.progress))
        self.step += 1
        self.seconds += time.perf_counter() - started

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
        self._overlap = batches[-1]
        if self.processes.any_of_us(not bool(torch.isfinite(torch.cat([losses, norm[None]])).all())):
            self._skip(batches, losses, norm)
            return
        self._guard.passed()
        self._losses.append(losses)
        self._norms.append(norm)
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
            n_decoded=min(self._n_decoded, n_global),
        )
        temperature = schedules.teacher_temperature(
            self.progress,
            start=self.settings.loss.teacher_temperature,
            end=self.settings.loss.teacher_temperature_end,
            warmup=self.settings.loss.teacher_temperature_warmup,
        )
        said: dict[str, Tensor] = {}
        for (name, head), bottleneck in zip(self._heads(self.teacher).items(), _present(found), strict=True):
            logits = head.last_layer(bottleneck)
            if self.settings.loss.teacher == "sinkhorn":
                said[name] = sinkhorn_probabilities(logits, temperature)
            else:
                centre = self.centres[name]
                assert isinstance(centre, TeacherCentre)
                said[name] = centre.probabilities(logits, temperature)
            self._seen[name] = (said[name], bottleneck)
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
        self._seen.clear()
        image, nucleus = losses.tolist()
        found = f"L_image is {image}, L_nu is {nucleus}, the norm of the gradients {float(norm)}"
        self._guard.skip(self.step, found, (slide for batch in batches for slide in batch.slide_ids))

    def measured(self) -> dict[str, Any]:
        """What happened since the last time this was asked; every process must ask.

        Raises:
            TrainingError: a head has collapsed.
        """
        taken = self._losses or [torch.full((2,), math.nan, device=self.processes.device)]  # all were skipped
        image, nucleus = self.processes.mean(torch.stack(taken).mean(dim=0)).tolist()
        norm = float(torch.stack(self._norms).mean()) if self._norms else math.nan
        self._losses.clear()
        self._norms.clear()
        now, (then, waited, step) = time.perf_counter(), self._told
        row: dict[str, Any] = {
            "step": self.step,
            "epoch": self.feed.epoch,
            "loss": self.settings.loss.lambda_image * image + self.settings.loss.lambda_nu * nucleus,
            "loss_image": image if "image" in self.centres else None,
            "loss_nucleus": nucleus if "nucleus" in self.centres else None,
            "gradient_norm": norm,
            "skipped_steps": self._guard.skipped,
            "rois_left_out": len(self.feed.left_out),
            "learning_rate": self.optimiser.learning_rate(self.progress),
            "weight_decay": self.optimiser.weight_decay(self.progress),
            "rois_per_s": (self.step - step) * self.settings.batch_size / (now - then),
            "data_wait_share": (self.feed.waited_s - waited) / (now - then),
            "memory_gib": _memory_gib(self.processes.device),
            "seconds": self.seconds,
        }
        for name, (probabilities, bottleneck) in self._seen.items():
            health = health_of(probabilities, bottleneck)
            row |= {f"{key}_{name}": value for key, value in health._asdict().items()}
            self._watches[name].check(health, self.step)
        if self._overlap is not None:
            row |= self._overlap.overlap()._asdict()
        self._told = (now, self.feed.waited_s, self.step)
        return {key: value if value == value else None for key, value in row.items()}  # NaN is no JSON

    def resolved(self) -> dict[str, Any]:
        """All settings as used, and what was decided on this machine."""
        return {
            **self.settings.model_dump(mode="json"),
            "resolved": {
                "precision": self.precision,
                "processes": world_size(),
                "device": str(self.processes.device),
                "steps": self.steps,
                "dataset": self.feed.dataset.fingerprint,
            },
        }

    def save(self, out: Path) -> None:
        """Write the checkpoint, the teacher's backbone as it is now, and its card."""
        tensors = {
            **under("student", self.network.state_dict()),
            **under("teacher", self.teacher.state_dict()),
            **under("centre", self.centres.state_dict()),
            **under("optimiser", optimiser_tensors(self.optimiser.adamw, self.optimiser.names)),
        }
        wrong = not_finite(tensors)
        if wrong:
            raise TrainingError(
                f"step {self.step}: {wrong} holds numbers that are not finite; the checkpoint before stands",
                reason="loss_not_finite",
            )
        about = {
            "settings": identity(self.settings),
            "step": self.step,
            "skipped": self._guard.skipped,
            "left_out": self.feed.left_out,
            "seconds": self.seconds,
            "precision": self.precision,
            "feed": self.feed.state(),
        }
        keep_previous(out / CHECKPOINT_NAME, self.settings.run.keep_checkpoints - 1)
        save_checkpoint(out / CHECKPOINT_NAME, tensors, about)
        export(self._exported(), self.settings, out, about=self._card())

    def keep_teacher(self, out: Path) -> None:
        """Write the teacher's backbone at the end of an epoch beside those of earlier ones."""
        folder = out / TEACHERS_NAME / f"epoch-{self.feed.epoch + 1:04}"
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        export(self.teacher.backbone, self.settings, folder, about=self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "steps": self.steps,
            "epochs": self.step / self.feed.steps_per_epoch,
            "n_rois": len(self.feed.dataset),
            "dataset": self.feed.dataset.fingerprint,
            "seconds": round(self.seconds, 1),
            "skipped_steps": self._guard.skipped,
            "rois_left_out": sorted(self.feed.left_out),
        }

    def _exported(self) -> MuseBackbone:
        """The teacher's backbone; of a finished run with its map standardised, where the settings say so."""
        backbone, mpp = self.teacher.backbone, self.settings.standardised_at_mpp
        if not mpp or self.step < self.steps:
            return backbone
        return with_standard_map(backbone, self.feed.dataset, mpp=mpp, seed=self.settings.seed)

    def _restore(self, stored: Checkpoint) -> None:
        load_part(self.network, stored, "student")
        load_part(self.teacher, stored, "teacher")
        load_part(self.centres, stored, "centre")
        load_optimiser(self.optimiser.adamw, self.optimiser.names, part_of(stored, "optimiser"))
        self.feed.go_to(stored.about["feed"])
        self.feed.left_out.update(stored.about.get("left_out", {}))
        self.step, self.seconds = int(stored.about["step"]), float(stored.about["seconds"])


def _head(inputs: int, settings: HeadSettings) -> ProjectionHead:
    return ProjectionHead(
        inputs,
        settings.prototypes,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        layers=settings.layers,
        fixed_gain=settings.fixed_gain,
    )


def _present(found: Bottlenecks) -> list[Tensor]:
    return [tensor for tensor in found if tensor is not None]


def _memory_gib(device: torch.device) -> float:
    """The most so far: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB on Linux


def _held(out: Path, processes: Processes) -> AbstractContextManager[None]:
    return locked(out) if processes.first else nullcontext()
