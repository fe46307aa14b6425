"""One step of pretraining ViT-S/16 on 2 global views of 224 px and 8 local ones of 96 px, against a plain reference.

    python -m benchmarks.pretrain_step [--rois-per-step 2] [--set KEY=VALUE]...

Both train the network of the recipe `vit-s16` from the same weights on the same views, each in a process of its own:

    ours    `muse_core.pretrain` by the recipe: `precision=auto` (bf16 where this CPU is faster in it), one gather for
            all nuclei of a batch, heads on matched nuclei, cross-entropies without log-probabilities
    fp32    the same in float32
    plain   as one would write it down: float32, every view decoded, a look-up an image in a loop, heads on every
            nucleus of every view, logits and log-probabilities of every pair in memory

Losses of `fp32` and `plain` must agree to 1e-4 of their size, step by step, centres included. The learning rate is next
to 0, so that weights stay as they are. The first step of each is not timed, and the best of the others counts.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_pretrain import draw_rois
from muse_core.machine.process import own_process
from muse_core.models.backbone import build_backbone, standardised
from muse_core.models.heads import ProjectionHead
from muse_core.pretrain.network import MuseNetwork
from muse_core.pretrain.settings import HeadSettings, PretrainSettings, load_pretrain_settings
from muse_core.pretrain.trainer import CONFIG_NAME, METRICS_NAME, pretrain
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.pretrain.views.loader import ViewLoader
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.training.checkpoint import PRETRAINING, load_part, read_checkpoint

STEPS = 3
TOLERANCE = 1e-4
FIXED = (
    f"steps={STEPS}",
    "backbone.drop_path=0",  # chance that the reference does not share
    "optimiser.learning_rate=1e-12",
    "optimiser.final_learning_rate=0",
    "run.workers=0",
    "run.log_every=1",
    "run.checkpoint_minutes=1000",
)


@dataclass
class Figures:
    """What one way of training did, step by step.

    Attributes:
        precision: fp32 or bf16.
        image, nucleus: L_image and L_nu.
        wall_s, cpu_s: seconds by the clock and of the process.
        peak_gib: the most memory of the process up to its last step.
    """

    precision: str = "fp32"
    image: list[float] = field(default_factory=list)
    nucleus: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_gib: float = 0.0


class Laps:
    """Seconds between calls, by the clock and of this process."""

    def __init__(self, figures: Figures) -> None:
        self.figures, self._then = figures, (time.perf_counter(), time.process_time())

    def lap(self) -> None:
        """A step is done."""
        now = (time.perf_counter(), time.process_time())
        self.figures.wall_s.append(now[0] - self._then[0])
        self.figures.cpu_s.append(now[1] - self._then[1])
        self.figures.peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB on Linux
        self._then = now


def train_ours(rois: Path, out: Path, settings: PretrainSettings) -> Figures:
    """Train by the library; its steps include cutting the views and what is measured for the log."""
    figures = Figures()
    laps = Laps(figures)
    pretrain(rois, out, settings=settings, on_progress=lambda progress: laps.lap())
    rows = [json.loads(line) for line in (out / METRICS_NAME).read_text().splitlines()]
    figures.image, figures.nucleus = ([row[f"loss_{name}"] for row in rows] for name in ("image", "nucleus"))
    figures.precision = json.loads((out / CONFIG_NAME).read_text())["resolved"]["precision"]
    return figures


def train_plain(rois: Path, start: Path, settings: PretrainSettings) -> Figures:
    """Train plainly from the weights in the checkpoint `start`."""
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    figures, run = Figures(), PlainRun(settings, start)
    loader = ViewLoader(RoiDataset(rois), settings.views, batch_size=settings.batch_size, seed=settings.seed)
    batches = loader.batches(0)
    laps = Laps(figures)
    for batch in islice(batches, settings.steps):
        image, nucleus = run.step(batch)
        laps.lap()
        figures.image.append(image)
        figures.nucleus.append(nucleus)
    return figures


class PlainRun:
    """Teacher and student as DINO's script has them, with a second head for nuclei; nothing is spared.

    Args:
        settings: the recipe.
        start: a checkpoint with the weights to start from.
    """

    def __init__(self, settings: PretrainSettings, start: Path) -> None:
        self.settings, stored = settings, read_checkpoint(start)
        self.student, self.teacher = _network(settings), _network(settings)
        for network in (self.student, self.teacher):
            load_part(network, stored, "student")
        self.teacher.requires_grad_(False)
        self.centre_image = torch.zeros(settings.image_head.prototypes)
        self.centre_nucleus = torch.zeros(settings.nucleus_head.prototypes)
        rate = settings.optimiser.learning_rate * settings.batch_size / 256
        self.adamw = torch.optim.AdamW(
            self.student.parameters(), lr=rate, weight_decay=settings.optimiser.weight_decay, foreach=False
        )
        self._done = 0

    def step(self, batch: ViewBatch) -> tuple[float, float]:
        """One step; L_image and L_nu before it."""
        groups = [standardised(images.flatten(0, 1)) for images in (batch.global_images, batch.local_images)]
        with torch.no_grad():
            teacher_image, teacher_nuclei = logits_of(self.teacher, batch, groups[:1])
        student_image, student_nuclei = logits_of(self.student, batch, groups)
        n_global, n_views, temperature = len(batch.global_images), len(batch.valid), self._temperature()
        pairs = [(g, v) for g in range(n_global) for v in range(n_views) if g != v]
        said = torch.softmax((teacher_image - self.centre_image) / temperature, dim=-1).chunk(n_global)
        says = [torch.log_softmax(view / 0.1, dim=-1) for view in student_image.chunk(n_views)]
        image = sum(-(said[g] * says[v]).sum(dim=-1).mean() for g, v in pairs) / len(pairs)
        nucleus = self._nucleus_loss(batch.valid, pairs, teacher_nuclei, student_nuclei, temperature)
        (image + nucleus).backward()
        self._update()
        self._move_centres(batch.valid, teacher_image, teacher_nuclei)
        return image.item(), nucleus.item()

    def _move_centres(self, valid: Tensor, image: Tensor, nuclei: list[Tensor]) -> None:
        """Towards the mean logits of all global views, and of the nuclei in them that another view holds."""
        self.centre_image = 0.9 * self.centre_image + 0.1 * image.mean(dim=0)
        matched = valid.sum(dim=0) > 1
        rows = torch.cat([logits[here & matched] for logits, here in zip(nuclei, valid, strict=False)])
        if len(rows):
            self.centre_nucleus = 0.9 * self.centre_nucleus + 0.1 * rows.mean(dim=0)

    def _nucleus_loss(
        self,
        valid: Tensor,
        pairs: list[tuple[int, int]],
        teacher: list[Tensor],
        student: list[Tensor],
        temperature: float,
    ) -> Tensor:
        """Equation 6 for each pair of views, a mean over its nuclei, then over the pairs that have any."""
        losses = []
        for g, v in pairs:
            shared = valid[g] & valid[v]
            if not shared.any():
                continue
            said = torch.softmax((teacher[g][shared] - self.centre_nucleus) / temperature, dim=-1)
            says = torch.log_softmax(student[v][shared] / 0.1, dim=-1)
            losses.append(-(said * says).sum(dim=-1).mean())
        return sum(losses) / len(losses)

    def _temperature(self) -> float:
        loss, progress = self.settings.loss, self._done / self.settings.steps
        if progress >= loss.teacher_temperature_warmup:
            return loss.teacher_temperature_end
        rise = loss.teacher_temperature_end - loss.teacher_temperature
        return loss.teacher_temperature + rise * progress / loss.teacher_temperature_warmup

    def _update(self) -> None:
        """Clip each tensor, AdamW, the teacher's running average; then the next step."""
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(min(1.0, self.settings.optimiser.clip / (float(parameter.grad.norm()) + 1e-6)))
        self.adamw.step()
        self.adamw.zero_grad()
        momentum = self.settings.optimiser.momentum
        with torch.no_grad():
            for kept, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                kept.mul_(momentum).add_((1 - momentum) * new)
        self._done += 1


def logits_of(network: MuseNetwork, batch: ViewBatch, groups: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Image logits (V * B, K) and of each view the logits (N, K) of its nuclei, matched or not; zeros elsewhere."""
    images, nuclei = [], []
    for rgb in groups:
        feature_map, image = network.backbone(rgb)
        images.append(network.image_head(image))
        for maps in feature_map.split(len(batch)):  # a view of all ROIs
            view = len(nuclei)
            rows, looked_up = [], []
            for roi in range(len(batch)):
                mine = (batch.valid[view] & (batch.image_index == roi)).nonzero().flatten()
                grid = 2 * batch.xy[view, mine] / rgb.shape[-1] - 1
                found = functional.grid_sample(
                    maps[roi : roi + 1], grid[None, None], padding_mode="border", align_corners=False
                )
                rows.append(mine)
                looked_up.append(found[0, :, 0].T)
            logits = network.nucleus_head(torch.cat(looked_up))
            table = logits.new_zeros(batch.valid.shape[1], logits.shape[1])
            nuclei.append(table.index_copy(0, torch.cat(rows), logits))
    return torch.cat(images), nuclei


def _network(settings: PretrainSettings) -> MuseNetwork:
    """Backbone and heads as the recipe sizes them."""

    def head(inputs: int, of: HeadSettings) -> ProjectionHead:
        return ProjectionHead(inputs, of.prototypes, hidden=of.hidden, bottleneck=of.bottleneck, layers=of.layers)

    backbone = build_backbone(settings.backbone)
    image, nucleus = head(backbone.image_channels, settings.image_head), None
    nucleus = head(backbone.map_channels, settings.nucleus_head)
    return MuseNetwork(backbone, image, nucleus).train()


def in_a_process(kind: str, folder: Path, overrides: list[str]) -> Figures:
    """The figures of one way, in a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.pretrain_step", "--only", kind, "--folder", str(folder)]
    command += [word for override in overrides for word in ("--set", override)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def only(kind: str, folder: Path, overrides: list[str]) -> Figures:
    """One way in this process; `plain` starts from the weights that `fp32` leaves."""
    precision = ["precision=fp32"] if kind != "ours" else []
    settings = load_pretrain_settings(Path("vit-s16"), [*FIXED, *overrides, *precision])
    if kind == "plain":
        return train_plain(folder / "rois", folder / "fp32" / PRETRAINING.file_name, settings)
    return train_ours(folder / "rois", folder / kind, settings)


def difference(one: Figures, other: Figures) -> float:
    """The largest relative difference of a loss at any step."""
    ours, theirs = (torch.tensor([figures.image, figures.nucleus], dtype=torch.float64) for figures in (one, other))
    return float(((ours - theirs) / theirs).abs().max())


def report(found: dict[str, Figures]) -> Iterator[str]:
    """A line a way."""
    plain = found["plain"]
    yield f"{'':10s}{'precision':>10}{'s a step':>10}{'CPU s':>8}{'x plain':>9}{'peak GiB':>10}{'of plain':>10}"
    for name, figures in found.items():
        wall, cpu = (min(times[1:]) for times in (figures.wall_s, figures.cpu_s))
        yield (
            f"{name:10s}{figures.precision:>10}{wall:>10.2f}{cpu:>8.2f}{min(plain.wall_s[1:]) / wall:>9.2f}"
            f"{figures.peak_gib:>10.2f}{figures.peak_gib / plain.peak_gib:>10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois-per-step", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--only", choices=("ours", "fp32", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(asdict(only(arguments.only, arguments.folder, arguments.set))))
        return
    overrides = [f"batch_size={arguments.rois_per_step}", *arguments.set]
    with tempfile.TemporaryDirectory() as name:
        draw_rois(Path(name), count=STEPS * arguments.rois_per_step, side_px=512)
        found = {kind: in_a_process(kind, Path(name), overrides) for kind in ("fp32", "plain", "ours")}
    print("\n".join(report(found)))
    off = difference(found["fp32"], found["plain"])
    print(f"losses of fp32 and plain differ by {off:.1e} of their size at most (tolerance {TOLERANCE:g})")
    best = {name: min(figures.wall_s[1:]) for name, figures in found.items()}
    cpu = {name: min(figures.cpu_s[1:]) for name, figures in found.items()}
    print(
        json.dumps(
            {
                "benchmark": "pretrain_step",
                "precision": found["ours"].precision,
                "plain_over_ours": best["plain"] / best["ours"],
                "plain_over_ours_cpu": cpu["plain"] / cpu["ours"],
                "plain_over_fp32": best["plain"] / best["fp32"],
                "plain_over_fp32_cpu": cpu["plain"] / cpu["fp32"],
                "ours_peak_over_plain": found["ours"].peak_gib / found["plain"].peak_gib,
                "loss_difference": off,
                **{f"{kind}_s": seconds for kind, seconds in best.items()},
                **{f"{kind}_peak_gib": figures.peak_gib for kind, figures in found.items()},
            }
        )
    )
    if off > TOLERANCE:
        sys.exit("losses differ")


if __name__ == "__main__":
    own_process()
    main()
