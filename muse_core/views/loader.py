"""Batches of views for the trainer, from worker processes, in an order that depends on seed and epoch only.

A ROI's views are a function of (seed, epoch, index): neither the number of workers nor that of ranks changes them. What
was used is one number, ROIs of the epoch counted over all ranks, so that a resumed run may have another topology.

    loader = ViewLoader(RoiDataset("out"), ViewSettings(), batch_size=32, seed=0, workers=4)
    for batch in loader.batches(epoch=0):
        ...
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset

from muse_core.errors import DatasetError, MuseError
from muse_core.machine import cpu_count
from muse_core.roi_dataset import RoiDataset
from muse_core.roi_order import Shard, shuffled
from muse_core.views.batch import ViewBatch, view_batch
from muse_core.views.settings import ViewSettings

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # a worker; one is being copied while the next is cut
_Place = tuple[int, int]  # epoch, index in the dataset


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

        Raises:
            DatasetError: fewer ROIs than one batch of all ranks, no nuclei at all, or ROIs too small for a view.
        """
        check_dataset(dataset, settings, rois_per_step=batch_size * world)
        self._count, self._seed, self._shard = len(dataset), seed, Shard(rank=rank, world_size=world)
        self._sampler = _BatchSampler(batch_size)
        if workers > cpu_count():
            logger.warning("%d loader workers for %d cores: they will wait for one another", workers, cpu_count())
        with _without_word_of_cores():
            self._loader = DataLoader(
                _RoiViews(dataset, settings, seed),
                batch_sampler=self._sampler,
                collate_fn=_as_it_is,
                num_workers=workers,
                persistent_workers=workers > 0,
                prefetch_factor=_BATCHES_AHEAD if workers else None,
                worker_init_fn=_single_threaded if workers else None,
                multiprocessing_context=start_method if workers else None,
                pin_memory=torch.cuda.is_available(),
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
        """
        order = shuffled(self._count, self._seed, epoch)
        stop = start_roi + self.steps(start_roi) * self.batch_size * self._shard.world_size
        self._sampler.places = [(epoch, int(order[at])) for at in self._shard.positions(start_roi, stop)]
        with _without_word_of_cores():
            batches = iter(self._loader)
        for batch in batches:
            if isinstance(batch, MuseError):
                raise batch
            yield batch


def check_dataset(dataset: RoiDataset, settings: ViewSettings, *, rois_per_step: int) -> None:
    """Say at once what would otherwise come up in the middle of an epoch; reads small columns only.

    Args:
        dataset: the ROIs.
        settings: the views wanted of them.
        rois_per_step: ROIs of one step over all ranks.

    Raises:
        DatasetError: fewer ROIs than one step, no nuclei at all, or ROIs too small for a view.
    """
    if len(dataset) < rois_per_step:
        raise DatasetError(
            f"the dataset holds {len(dataset)} ROIs, one step needs {rois_per_step};"
            " use a smaller batch size or build more ROIs"
        )
    table = dataset.table(["roi_id", "mpp", "width_px", "height_px", "n_nuclei"])
    if not (pc.sum(table["n_nuclei"]).as_py() or 0):
        raise DatasetError(
            f"none of the {len(dataset)} ROIs has nuclei, and NuLo learns from nuclei;"
            " build the dataset again with a detector"
        )
    shorter = np.minimum(*(table[name].to_numpy() for name in ("width_px", "height_px")))
    mpp = table["mpp"].to_numpy()
    for name, side_px, (finest, coarsest) in (
        ("global", settings.global_px, settings.global_mpp),
        ("local", settings.local_px, settings.local_mpp),
    ):
        needed = side_px * finest / mpp
        small = np.flatnonzero(shorter < needed - 1e-9 * needed)
        if len(small):
            raise _too_small(table.slice(small[0], 1).to_pylist()[0], name, side_px, finest, len(small))
        clipped = int((shorter < side_px * coarsest / mpp * (1 - 1e-9)).sum())
        if clipped:
            logger.warning("%d ROIs hold no %s view of %s µm/px: theirs stay finer", clipped, name, coarsest)
    if upsampled := int((mpp > 1.01 * min(settings.global_mpp[0], settings.local_mpp[0])).sum()):
        logger.warning("%d ROIs are coarser than the finest views, which are enlarged from them", upsampled)


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
            samples = [self._dataset.read(index) for _, index in places]
            return view_batch(samples, [(self._seed, *place) for place in places], self._settings)
        except MuseError as error:
            return error


@contextmanager
def _without_word_of_cores() -> Iterator[None]:
    """PyTorch warns, each epoch anew, of more workers than cores; we log it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401  PyTorch types it as a list, which a batch made whole is not
    return batch


def _single_threaded(worker: int) -> None:
    """Workers are the parallelism; PyTorch sets its own threads to one already."""
    cv2.setNumThreads(0)  # not 1: that waits for ever for the threads that a forked worker does not have
