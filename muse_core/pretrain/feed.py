"""Which views come next: steps of micro-batches from a ROI dataset, and the place to go on from."""

import logging
import os
import time
from collections.abc import Iterator
from typing import Any, Literal

from muse_core.errors import ConfigError, WorkersLostError
from muse_core.machine.limits import cpu_count
from muse_core.pretrain.memory import micro_batches
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.views.batch import ViewBatch
from muse_core.pretrain.views.loader import ViewLoader
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.roi_dataset.dataset import RoiDataset

logger = logging.getLogger(__name__)

_MOST_LOST = 3  # times in one step that workers of the loader may be lost


def loader_workers(wanted: int | Literal["auto"], processes: Processes) -> int:
    """How many processes cut a rank's views.

    Args:
        wanted: a number, or `auto`: beside a GPU as many as the rank has cores, less one for itself; on a CPU none, for
            training takes its cores.
        processes: who trains, and on what.
    """
    if wanted != "auto":
        return wanted
    if processes.device.type == "cpu":
        return 0
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


class Feed:
    """Steps of data, epoch after epoch; each step is `batch_size` ROIs over all processes.

    Views depend on seed, epoch and ROI alone, so that a resumed run sees what it would have seen.

    Args:
        dataset: the ROIs.
        settings: of the run.
        processes: who shares them.

    Raises:
        ConfigError: a batch that the processes and micro-batches don't divide.
        DatasetError: too few ROIs, no nuclei though lambda_nu is not 0, or ROIs too small for a view.
    """

    def __init__(self, dataset: RoiDataset, settings: PretrainSettings, processes: Processes) -> None:
        self.dataset, self.epoch, self.used = dataset, 0, 0
        self.waited_s = 0.0
        self.left_out: dict[str, str] = {}  # ROIs that others were taken for, with the reason
        self._settings, self._processes = settings, processes
        self._loader: ViewLoader | None = None
        self._batches: Iterator[ViewBatch] | None = None
        self._phase: tuple[ViewSettings, int] | None = None
        self._fitting: dict[str, int] = {}  # micro-batches found to fit, by views
        self.micro_batches = 0  # a step of this process
        for progress in (0.0, *(phase.until for phase in settings.phases[:-1])):
            self._open(progress)  # a phase that cannot run is told at once

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch; what remains of its ROIs comes first in another."""
        return len(self.dataset) // self._settings.batch_size

    def next_step(self, progress: float) -> list[ViewBatch]:
        """The micro-batches of this process for the next step.

        Args:
            progress: of the run, 0..1: a phase's views are cut from its start on.

        Raises:
            DatasetError: a ROI is damaged.
        """
        started = time.perf_counter()
        if self.at_epoch_end:
            self.epoch, self.used, self._batches = self.epoch + 1, 0, None
        if self._settings.views_at(progress) != self._phase:
            self._open(progress)
        step = self._taken(progress)
        for batch in step:
            self.left_out.update(batch.left_out)
        self.used += self._settings.batch_size
        self.waited_s += time.perf_counter() - started
        return step

    @property
    def at_epoch_end(self) -> bool:
        """Whether the next step begins another epoch."""
        return self.used + self._settings.batch_size > len(self.dataset)

    def _taken(self, progress: float) -> list[ViewBatch]:
        """The step's micro-batches; where a worker of the loader is lost, the step begins again with new ones."""
        for lost in range(_MOST_LOST + 1):
            try:
                assert self._loader is not None
                if self._batches is None:
                    self._batches = self._loader.batches(self.epoch, start_roi=self.used)
                return [next(self._batches) for _ in range(self.micro_batches)]
            except WorkersLostError as error:
                if lost == _MOST_LOST:
                    raise
                logger.warning("%s; the loader's workers are started again", error)
                self._open(progress)
        raise AssertionError("the last turn returns or raises")

    def _open(self, progress: float) -> None:
        views, accumulate = self._phase = self._settings.views_at(progress)
        accumulate = self.micro_batches = accumulate or self._fitted(views)
        per_step, parts = self._settings.batch_size, self._processes.world_size * accumulate
        if per_step % parts:
            raise ConfigError(
                f"batch_size {per_step} is not divided by {self._processes.world_size} processes x {accumulate}"
                " micro-batches; change batch_size or accumulate"
            )
        self._batches = None
        self._loader = ViewLoader(
            self.dataset,
            views,
            batch_size=per_step // parts,
            seed=self._settings.seed,
            rank=self._processes.rank,
            world=self._processes.world_size,
            workers=loader_workers(self._settings.run.workers, self._processes),
            nuclei_needed=self._settings.loss.lambda_nu > 0,
        )

    def _fitted(self, views: ViewSettings) -> int:
        """As few micro-batches as fit into memory; asked once a kind of views, by all processes alike."""
        if self._settings.batch_size % self._processes.world_size:
            return 1  # the caller says what is wrong
        key = views.model_dump_json()
        if key not in self._fitting:
            self._fitting[key] = micro_batches(self._settings, views, self._processes)
            logger.info("views of %d px: %d micro-batches a step fit", views.global_px, self._fitting[key])
        return self._fitting[key]

    def state(self) -> dict[str, Any]:
        """The place, for a checkpoint."""
        return {"epoch": self.epoch, "used": self.used, "dataset": self.dataset.fingerprint}

    def go_to(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's place.

        Raises:
            ConfigError: it is a place in another dataset.
        """
        if state["dataset"] != self.dataset.fingerprint:
            if not self._settings.run.changed_dataset:
                raise ConfigError(
                    f"the checkpoint was made with dataset {state['dataset']}, --rois is {self.dataset.fingerprint};"
                    " give the same dataset, another --out, or run.changed_dataset=true to go on with this one"
                )
            logger.warning("dataset %s is now %s; the next epoch begins", state["dataset"], self.dataset.fingerprint)
            state = {**state, "epoch": int(state["epoch"]) + 1, "used": 0}
        self.epoch, self.used, self._batches = int(state["epoch"]), int(state["used"]), None
