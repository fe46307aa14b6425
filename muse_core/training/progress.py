"""How far a run of training is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a caller may show.

    Attributes:
        step: steps done.
        steps: to do in all.
        loss: recent mean; NaN where there is none.
        seconds: of all sittings together.
        score: on validation, 0..1, by what the run is selected by; None but after a step that was validated.
        images_per_s: ROIs learned from, over all processes, since this was told last; None where it is not measured.
        data_wait_share: share of that time, 0..1, spent waiting for them; None where it is not measured.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    score: float | None = None
    images_per_s: float | None = None
    data_wait_share: float | None = None
