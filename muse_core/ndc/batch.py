"""The samples of a step, drawn from (seed, step) alone, so that a stopped run goes on as if it had not been."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.labels.regions import Region
from muse_core.labels.turns import regions_in_turn
from muse_core.ndc.samples import Sample, draw_sample, joined
from muse_core.ndc.settings import FinetuneSettings
from muse_core.ndc.targets import DenseTargets, dense_targets

_UNLABELLED = 1 << 19  # keeps the orders of labelled and unlabelled regions apart


@dataclass(frozen=True)
class Batch:
    """Samples, the labelled ones first.

    Attributes:
        samples: of the step.
        dense: what the dense head is to say of them; None where it is not trained.
    """

    samples: list[Sample]
    dense: DenseTargets | None = None

    def images(self, device: torch.device) -> Tensor:
        """What the student sees: (B, 3, n, n) uint8 RGB."""
        return _stacked([sample.image for sample in self.samples], device)

    def plain_images(self, device: torch.device) -> Tensor:
        """The same pictures with their own colours, which the teacher sees."""
        return _stacked([sample.plain for sample in self.samples], device)

    @property
    def has_unlabelled_tissue(self) -> bool:
        """Whether there is tissue outside the annotated regions."""
        return any(bool((sample.seen & ~sample.annotated).any()) for sample in self.samples)


class BatchesAhead:
    """The batches of a run's steps, the next one drawn while a step is computed, its samples on threads of their own.

    Args:
        labelled: regions with labels.
        unlabelled: regions without.
        settings: how samples are drawn, and how many steps there are.
        weights: of the shares of the labelled regions' sources.
    """

    def __init__(
        self,
        labelled: Sequence[Region],
        unlabelled: Sequence[Region],
        settings: FinetuneSettings,
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._regions, self._settings, self._weights = (labelled, unlabelled), settings, weights or {}
        self._pool = ThreadPoolExecutor(1, "batches")
        # Threads, not processes: OpenCV and numpy let go of the interpreter in all that takes time, and regions, which
        # may fill most of the memory, are shared.
        self._drawers = ThreadPoolExecutor(settings.sample_threads, "samples")
        self._drawn: dict[int, Future[Batch]] = {}

    def of_step(self, step: int) -> Batch:
        """The batch of a step; that of the step after it is begun."""
        batch = self._drawn.pop(step, None) or self._begun(step)
        if step + 1 < self._settings.steps:
            self._drawn = {step + 1: self._begun(step + 1)}
        return batch.result()

    def _begun(self, step: int) -> Future[Batch]:
        return self._pool.submit(
            batch_of_step, *self._regions, step, self._settings, weights=self._weights, drawers=self._drawers
        )


def batch_of_step(
    labelled: Sequence[Region],
    unlabelled: Sequence[Region],
    step: int,
    settings: FinetuneSettings,
    *,
    weights: Mapping[str, float] | None = None,
    drawers: ThreadPoolExecutor | None = None,
) -> Batch:
    """The samples of a step: sources by their weights, each one's regions once an epoch, in an order of the seed.

    Each sample has a stream of chance of its own, so that the number of threads that draw them changes nothing.
    """
    rng = np.random.default_rng([settings.seed, step])
    key = [settings.seed, 1 << 20]
    regions = regions_in_turn(labelled, weights or {}, step=step, count=settings.batch_size, key=key)
    if unlabelled and settings.unlabelled_share:
        count = max(1, round(settings.batch_size * settings.unlabelled_share))
        regions += regions_in_turn(unlabelled, {}, step=step, count=count, key=[settings.seed, _UNLABELLED])
    # From 1 on: numpy takes (seed, step, 0) for (seed, step), which mosaics are drawn with.
    chances = [np.random.default_rng([settings.seed, step, 1 + index]) for index in range(len(regions))]
    in_turn = map if drawers is None else drawers.map
    drawn = list(in_turn(partial(_drawn, settings), regions, chances))
    labelled_ones = _with_mosaics(drawn[: settings.batch_size], settings.mosaic_share, rng)
    samples = labelled_ones + drawn[settings.batch_size :]
    if not settings.loss.dense:
        return Batch(samples)
    return Batch(samples, dense_targets(samples, sigma_px=settings.loss.heat_sigma_px, in_turn=in_turn))


def _drawn(settings: FinetuneSettings, region: Region, rng: np.random.Generator) -> Sample:
    return draw_sample(region, settings.side_px, settings.augment, rng)


def _with_mosaics(samples: list[Sample], share: float, rng: np.random.Generator) -> list[Sample]:
    """Some of the samples joined with the one after them."""
    after = samples[1:] + samples[:1]
    return [
        joined(sample, other, rng) if rng.random() < share else sample
        for sample, other in zip(samples, after, strict=True)
    ]


def _stacked(pictures: list[NDArray[np.uint8]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2)  # (B, n, n, 3) -> (B, 3, n, n)
