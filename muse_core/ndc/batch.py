"""The samples of a step, drawn from (seed, step) alone, so that a stopped run goes on as if it had not been."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse_core.models.backbone import standardised
from muse_core.ndc.regions import Region
from muse_core.ndc.samples import Sample, draw_sample, joined
from muse_core.ndc.settings import FinetuneSettings

_UNLABELLED = 1 << 19  # keeps the orders of labelled and unlabelled regions apart


@dataclass(frozen=True)
class Batch:
    """Samples, the labelled ones first."""

    samples: list[Sample]

    def images(self) -> Tensor:
        """What the student sees: (B, 3, n, n) standardised."""
        return _standardised([sample.image for sample in self.samples])

    def plain_images(self) -> Tensor:
        """The same pictures with their own colours, which the teacher sees."""
        return _standardised([sample.plain for sample in self.samples])

    @property
    def has_unlabelled_tissue(self) -> bool:
        """Whether there is tissue outside the annotated regions."""
        return any(bool((sample.seen & ~sample.annotated).any()) for sample in self.samples)


def batch_of_step(
    labelled: Sequence[Region], unlabelled: Sequence[Region], step: int, settings: FinetuneSettings
) -> Batch:
    """The samples of a step: every region once an epoch, in an order that the seed and the epoch say."""
    rng = np.random.default_rng([settings.seed, step])
    regions = _turn(labelled, step, settings.batch_size, [settings.seed, 1 << 20])
    if unlabelled and settings.unlabelled_share:
        count = max(1, round(settings.batch_size * settings.unlabelled_share))
        regions += _turn(unlabelled, step, count, [settings.seed, _UNLABELLED])
    samples = [draw_sample(region, settings.side_px, settings.augment, rng) for region in regions]
    return Batch(
        _with_mosaics(samples[: settings.batch_size], settings.mosaic_share, rng) + samples[settings.batch_size :]
    )


def _with_mosaics(samples: list[Sample], share: float, rng: np.random.Generator) -> list[Sample]:
    """Some of the samples joined with the one after them."""
    after = samples[1:] + samples[:1]
    return [
        joined(sample, other, rng) if rng.random() < share else sample
        for sample, other in zip(samples, after, strict=True)
    ]


def _turn(regions: Sequence[Region], step: int, count: int, key: list[int]) -> list[Region]:
    """The next `count` regions of an endless row of shuffled epochs."""
    chosen = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(regions))
        order = np.random.default_rng([*key, epoch]).permutation(len(regions))
        chosen.append(regions[order[index]])
    return chosen


def _standardised(pictures: list[NDArray[np.uint8]]) -> Tensor:
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # (B, n, n, 3) -> (B, 3, n, n), channels last
    return standardised(stacked)
