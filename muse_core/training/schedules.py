"""What changes while a run goes on; pure functions of its progress, step / steps in 0..1.

Shares of the run rather than epochs: the same recipe then fits a run of an hour and one of a week.

Source: DINO's schedules, https://arxiv.org/abs/2104.14294, appendix C, with 10, 30 and 1 of 100 epochs as shares.
"""

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at 0 to `end` at 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate(progress: float, *, peak: float, final: float, warmup: float) -> float:
    """Linear from 0 to `peak` during the share `warmup` of the run, then a cosine to `final`."""
    if progress < warmup:
        return peak * progress / warmup
    return cosine(peak, final, (progress - warmup) / max(1 - warmup, 1e-12))


def warmed_cosine(step: int, steps: int, *, warmup_steps: int) -> float:
    """Share of the highest learning rate: a linear warm-up on top of half a cosine from 1 down to a hundredth."""
    return min(1.0, (step + 1) / max(1, warmup_steps)) * cosine(1.0, 0.01, step / steps)


def scaled_rate(base: float, batch_size: int) -> float:
    """The learning rate of a batch: linear in it, `base` is for 256 ROIs a step. Source: Goyal et al. 1706.02677."""
    return base * batch_size / 256


def teacher_temperature(progress: float, *, start: float, end: float, warmup: float) -> float:
    """Linear from `start` to `end` during the share `warmup`, then constant."""
    return end if progress >= warmup else start + (end - start) * progress / warmup
