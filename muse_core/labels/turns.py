"""Which regions come up in a training step: sources by their weights, each source's regions once an epoch."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

_GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 fill 0..1 evenly however far one counts


class _Sourced(Protocol):
    @property
    def source(self) -> str:
        """The dataset that it is of."""


AnySourced = TypeVar("AnySourced", bound=_Sourced)


def regions_in_turn(
    regions: Sequence[AnySourced], weights: Mapping[str, float], *, step: int, count: int, key: Sequence[int]
) -> list[AnySourced]:
    """The regions of a step, which hang on the step and the key alone.

    Args:
        regions: of any number of sources.
        weights: of the sources' shares, by name; those without one weigh 1.
        step: which one.
        count: regions a step.
        key: of the orders within epochs, such as the seed.
    """
    groups: dict[str, list[AnySourced]] = {}
    for region in regions:
        groups.setdefault(region.source, []).append(region)
    shares = np.array([weights.get(name, 1.0) for name in groups])
    ends = np.cumsum(shares) / shares.sum()
    places = np.arange((step + 1) * count)  # all so far: a source's turn is how often it has come up before
    sources = np.minimum(np.searchsorted(ends, places * _GOLDEN % 1, side="right"), len(groups) - 1)
    chosen = []
    members = list(groups.values())
    for place in range(step * count, (step + 1) * count):
        source = int(sources[place])
        group = members[source]
        epoch, index = divmod(int((sources[:place] == source).sum()), len(group))
        order = np.random.default_rng([*key, epoch] if len(groups) == 1 else [*key, source, epoch]).permutation(
            len(group)
        )
        chosen.append(group[order[index]])
    return chosen
