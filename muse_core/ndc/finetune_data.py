"""What a fine-tuning run learns from, as it is handed to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from muse_core.labels.regions import Region


@dataclass(frozen=True)
class FinetuneData:
    """What a run learns from and is chosen by.

    Attributes:
        class_names: C names.
        labelled: regions with labels.
        unlabelled: regions without, for L_cons.
        validation: regions that choose the step, the threshold and the calibration; each of their sources counts alike.
        weights: of the sources' shares of samples, by name; those without one weigh 1.
    """

    class_names: tuple[str, ...]
    labelled: Sequence[Region]
    unlabelled: Sequence[Region]
    validation: Sequence[Region]
    weights: Mapping[str, float] = field(default_factory=dict)
