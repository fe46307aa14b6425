"""What a run is asked now and then: losses and norms of the steps since, how the teacher is, and how fast it goes."""

import math
import resource
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from muse_core.pretrain.feed import Feed
from muse_core.pretrain.monitors import CollapseWatch, health_of
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.views.batch import ViewBatch


class Measures:
    """Gathers step by step, on the device, what one row of the record tells.

    Args:
        settings: of the run.
        feed: where data come from; how long they were waited for is told.
        processes: who trains.
        heads: names of the teacher's heads.
        step: that the run begins at.
    """

    def __init__(
        self, settings: PretrainSettings, feed: Feed, processes: Processes, heads: Iterable[str], *, step: int
    ) -> None:
        self._settings, self._feed, self._processes = settings, feed, processes
        self._watches = {name: CollapseWatch(name) for name in heads}
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._said: dict[str, tuple[Tensor, Tensor]] = {}
        self._batch: ViewBatch | None = None
        self._told = (time.perf_counter(), feed.waited_s, step)

    def saw(self, batch: ViewBatch) -> None:
        """The last micro-batch of a step."""
        self._batch = batch

    def said(self, head: str, probabilities: Tensor, bottleneck: Tensor) -> None:
        """What the teacher said last: probabilities (R, K) and the rows (R, E) that they come from."""
        self._said[head] = (probabilities, bottleneck)

    def passed(self, losses: Tensor, norm: Tensor) -> None:
        """A step was taken: L_image and L_nu (2,), and the norm of the gradients, a scalar."""
        self._losses.append(losses)
        self._norms.append(norm)

    def skipped(self) -> None:
        """A step was left out, and with it what the teacher said."""
        self._said.clear()

    def row(self, step: int) -> dict[str, float | None]:
        """What happened since the last row, by name; every process must ask. None stands for what was not seen.

        Raises:
            TrainingError: a head has collapsed.
        """
        taken = self._losses or [torch.full((2,), math.nan, device=self._processes.device)]  # all were skipped
        image, nucleus = self._processes.mean(torch.stack(taken).mean(dim=0)).tolist()
        loss = self._settings.loss
        row = {
            "loss": loss.lambda_image * image + loss.lambda_nu * nucleus,
            "loss_image": image if "image" in self._watches else None,
            "loss_nucleus": nucleus if "nucleus" in self._watches else None,
            "gradient_norm": float(torch.stack(self._norms).mean()) if self._norms else None,
            **self._speed(step),
            **self._health(step),
        }
        if self._batch is not None:
            row |= self._batch.overlap()._asdict()
        self._losses.clear()
        self._norms.clear()
        return {key: value if value == value else None for key, value in row.items()}  # NaN is no JSON

    def _speed(self, step: int) -> dict[str, float]:
        now, (then, waited_s, before) = time.perf_counter(), self._told
        self._told = (now, self._feed.waited_s, step)
        return {
            "rois_per_s": (step - before) * self._settings.batch_size / (now - then),
            "data_wait_share": (self._feed.waited_s - waited_s) / (now - then),
            "memory_gib": _memory_gib(self._processes.device),
        }

    def _health(self, step: int) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, (probabilities, bottleneck) in self._said.items():
            health = health_of(probabilities, bottleneck)
            row |= {f"{key}_{name}": value for key, value in health._asdict().items()}
            self._watches[name].check(health, step)
        return row


def _memory_gib(device: torch.device) -> float:
    """The most so far: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB on Linux
