"""How a fine-tuning run went."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Validation:
    """Scores by the main rule at the best threshold of 1 - p(background)."""

    step: int
    cut: float
    mean_class_f1: float
    detection_f1: float


@dataclass
class History:
    """What a run has seen so far."""

    seconds: float = 0.0
    losses: list[list[float]] = field(default_factory=list)  # a step each: total, reg, type, cons, dense
    validations: list[Validation] = field(default_factory=list)
