"""Batches of views for the trainer, from worker processes, in an order that depends on seed and epoch only.

A ROI's views are a function of (seed, epoch, index): neither the number of workers nor that of ranks changes them. What
was used is one number, ROIs of the epoch counted over all ranks, so that a resumed run may have another topology.

    loader = ViewLoader(RoiDataset("out"), ViewSettings(), batch_size=32, seed=0, workers=4)
    for batch in loader.batches(epoch=0):
        ...
"""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from torch.utils.data import DataLoader, Dataset

from muse_core.errors import DatasetError, MuseError, WorkersLostError
from muse_core.machine.limits import cpu_count
from muse_core.pretrain.views.batch import ViewBatch, view_batch
from muse_core.pretrain.views.settings import ViewSettings
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.order import Shard, shuffled

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # a worker; one is being copied while the next is cut
_ROUNDING = 1e-9  # of a quotient of mpps
_ENLARGED = 1.02  # slides of "0.25 µm/px" have 0.2452 to 0.2528: not worth a word
_Place = tuple[int, int]  # epoch, index in the dataset
# A file system that stumbles gets up again in seconds; a damaged ROI does not, and costs a batch this once.
_AGAIN: dict[str, Any] = {
    "stop": stop_after_attempt(3),
    "wait": wait_random_exponential(multiplier=0.5, max=5),
    "retry": retry_if_exception_type(DatasetError),
    "reraise": True,
}
_SUBSTITUTE = 2  # the stream of chance that others are drawn from; views take 0 and 1
_TRIED = 10  # others


class ViewLoader:
    """Epochs of view batches for one rank."""

    def __init__(
        self,
        dataset: RoiDataset,
        settings: ViewSettings,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_method: str | None = None,
        nuclei_needed: bool = True,
    ) -> None:
        """Check that the dataset can give such views, and set up the workers; they start with the first batch.

        Args:
            dataset: the ROIs.
            settings: how views are cut and changed.
            batch_size: ROIs a batch of this rank.
            seed: of the run, >= 0.
            rank: this training process, 0..world - 1.
            world: training processes.
            workers: loader processes of this rank; 0 cuts the views in the caller's.
            start_method: `fork`, `spawn` or `forkserver`; None takes Python's own default.
            nuclei_needed: whether something is learned from nuclei, so that a dataset without any is a mistake.

        Raises:
            DatasetError: fewer ROIs than one batch of all ranks, no nuclei where they are needed, or ROIs too small for
                a view.
        """
        check_dataset(dataset, settings, rois_per_step=batch_size * world, nuclei_needed=nuclei_needed)
        self._count, self._seed, self._shard = len(dataset), seed, Shard(rank=rank, world_size=world)
        self._sampler = _BatchSampler(batch_size)
        if workers > cpu_count():
            logger.warning("%d loader workers for %d cores: they will wait for one another", workers, cpu_count())
        with _starting_workers():
            self._loader = DataLoader(
                _RoiViews(dataset, settings, seed),
                batch_sampler=self._sampler,
                collate_fn=_as_it_is,
                num_workers=workers,
                persistent_workers=workers > 0,
                prefetch_factor=_BATCHES_AHEAD if workers else None,
                worker_init_fn=_set_up_worker if workers else None,
                multiprocessing_context=start_method if workers else None,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # else each epoch would draw from the caller's, and a resumed run differ
            )

    @property
    def batch_size(self) -> int:
        """ROIs a batch of this rank."""
        return self._sampler.batch_size

    def steps(self, start_roi: int = 0) -> int:
        """Batches that `batches` gives from a place in an epoch, the same for all ranks."""
        return (self._count - start_roi) // (self.batch_size * self._shard.world_size)

    def batches(self, epoch: int, start_roi: int = 0) -> Iterator[ViewBatch]:
        """The rest of an epoch; an incomplete last step is dropped, so that all ranks take as many.

        Args:
            epoch: each has an order and views of its own.
            start_roi: ROIs of the epoch, over all ranks, that were used already.

        Raises:
            DatasetError: a ROI is damaged.
            WorkersLostError: a worker was killed, such as for memory.
        """
        order = shuffled(self._count, self._seed, epoch)
        stop = start_roi + self.steps(start_roi) * self.batch_size * self._shard.world_size
        self._sampler.places = [(epoch, int(order[at])) for at in self._shard.positions(start_roi, stop)]
        with _starting_workers():
            batches = iter(self._loader)
        while (batch := _next(batches)) is not None:
            yield batch


def check_dataset(
    dataset: RoiDataset, settings: ViewSettings, *, rois_per_step: int, nuclei_needed: bool = True
) -> None:
    """Say at once what would otherwise come up in the middle of an epoch; reads small columns only.

    Args:
        dataset: the ROIs.
        settings: the views wanted of them.
        rois_per_step: ROIs of one step over all ranks.
        nuclei_needed: whether something is learned from nuclei.

    Raises:
        DatasetError: fewer ROIs than one step, no nuclei where they are needed, or ROIs too small for a view.
    """
    if len(dataset) < rois_per_step:
        raise DatasetError(
            f"the dataset holds {len(dataset)} ROIs, one step needs {rois_per_step};"
            " use a smaller batch size or build more ROIs"
        )
    table = dataset.table(["roi_id", "mpp", "width_px", "height_px", "n_nuclei"])
    if nuclei_needed and not (pc.sum(table["n_nuclei"]).as_py() or 0):
        raise DatasetError(
            f"none of the {len(dataset)} ROIs has nuclei, and NuLo learns from nuclei;"
            " build the dataset again with a detector, or set loss.lambda_nu=0"
        )
    _check_sizes(table, "global", settings.global_px, settings.global_mpp)
    if settings.local_views:
        _check_sizes(table, "local", settings.local_px, settings.local_mpp)


def _check_sizes(table: pa.Table, name: str, side_px: int, mpp_range: tuple[float, float]) -> None:
    """Refuse ROIs that hold no view at the finest mpp; tell of those whose views are held back or enlarged."""
    mpp = table["mpp"].to_numpy()
    shorter = np.minimum(table["width_px"].to_numpy(), table["height_px"].to_numpy()) * (1 + _ROUNDING)
    finest, coarsest = mpp_range
    small = np.flatnonzero(shorter < side_px * finest / mpp)
    if len(small):
        raise _too_small(table.slice(small[0], 1).to_pylist()[0], name, side_px, finest, len(small))
    if clipped := int((shorter < side_px * coarsest / mpp).sum()):
        logger.warning("%d ROIs hold no %s view of %s µm/px: theirs stay finer", clipped, name, coarsest)
    if enlarged := int((mpp > finest * _ENLARGED).sum()):
        logger.warning("%d ROIs are coarser than the finest %s views, which are enlarged from them", enlarged, name)


def _too_small(row: dict[str, object], name: str, side_px: int, finest: float, count: int) -> DatasetError:
    needed = side_px * finest / float(str(row["mpp"]))
    return DatasetError(
        f"ROI {row['roi_id']}: {row['width_px']} x {row['height_px']} px at {row['mpp']} µm/px; a {name} view of"
        f" {side_px} px at {finest} µm/px needs {needed:.0f} px ({count} such ROIs);"
        f" lower {name}_px or the finest {name}_mpp, or leave these ROIs out"
    )


class _BatchSampler:
    """Which places go into which batch; the loader sets `places` before each epoch."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.places: list[_Place] = []

    def __len__(self) -> int:
        return len(self.places) // self.batch_size

    def __iter__(self) -> Iterator[list[_Place]]:
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            yield self.places[first : first + self.batch_size]


class _RoiViews(Dataset[ViewBatch]):
    """What a worker does: places of a batch to its views."""

    def __init__(self, dataset: RoiDataset, settings: ViewSettings, seed: int) -> None:
        self._dataset, self._settings, self._seed = dataset, settings, seed

    def __getitems__(self, places: list[_Place]) -> ViewBatch | MuseError:
        """The batch, or what went wrong: raised in a worker, an error would come out with a page of its traceback."""
        try:
            return self._cut(places)
        except DatasetError:
            pass  # looked at ROI by ROI below
        except MuseError as error:
            return error
        try:
            left_out: dict[str, str] = {}
            readable = [self._readable(place, left_out) for place in places]
            return replace(self._cut(readable), left_out=left_out)
        except MuseError as error:
            return error

    def _cut(self, places: list[_Place]) -> ViewBatch:
        samples = (self._dataset.read(index) for _, index in places)
        return view_batch(samples, [(self._seed, *place) for place in places], self._settings)

    def _readable(self, place: _Place, left_out: dict[str, str]) -> _Place:
        """The place, or another of its epoch where it cannot be read: the same each time, whoever looks.

        Raises:
            DatasetError: a row of others cannot be read either; that is no single ROI's fault.
        """
        epoch, index = place
        chance = np.random.default_rng([self._seed, epoch, index, _SUBSTITUTE])
        others = chance.integers(len(self._dataset), size=_TRIED)
        for candidate in (index, *map(int, others)):
            try:
                for attempt in Retrying(**_AGAIN):
                    with attempt:
                        self._cut([(epoch, candidate)])
                return epoch, candidate
            except DatasetError as error:
                last = error
                left_out[f"ROI {candidate} of the dataset"] = str(error)
                logger.warning("a ROI is left out, another is taken: %s", error)
        raise DatasetError(f"{_TRIED + 1} ROIs, one after another, cannot be read; the last: {last}")


def _next(batches: Iterator[ViewBatch | MuseError]) -> ViewBatch | None:
    """The next batch, None at the end; what went wrong in a worker is raised here."""
    try:
        batch = next(batches, None)
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A batch whose worker died after announcing it cannot be fetched from there any more.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise WorkersLostError(
            f"{str(error) or type(error).__name__}; a loader worker was killed, most often for memory (/dev/shm holds"
            " the batches on their way): use fewer workers or a smaller batch size, and resume"
        ) from None
    if isinstance(batch, MuseError):
        raise batch
    return batch


@contextmanager
def _starting_workers() -> Iterator[None]:
    """Around what starts workers: keeps two habits of PyTorch's from the caller.

    It warns, each epoch anew, of more workers than cores, which we log once. And its handler for dead children raises
    wherever the caller happens to be, such as in a checkpoint; without it the loader tells, at the next batch.
    """
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere PyTorch sets no handler
    before = signal.getsignal(signal.SIGCHLD) if in_main else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401  PyTorch types it as a list, which a batch made whole is not
    return batch


def _set_up_worker(worker: int) -> None:
    # Workers are the parallelism; PyTorch sets its own threads to one already. Not 1 here: OpenCV would wait for ever
    # for the threads that a forked worker does not have.
    cv2.setNumThreads(0)
    # Ctrl-C reaches all processes at once, and the trainer wants one more batch or its checkpoint first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
