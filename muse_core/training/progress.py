"""How far a run of training is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a caller may show.

    Attributes:
        step: steps done.
        steps: to do in all.
        loss: recent mean.
        seconds: of all sittings together.
        score: on validation, 0..1, by what the run is selected by; None but after a step that was validated.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    score: float | None
