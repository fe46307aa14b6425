import math

import pytest

from muse_core.training.schedules import cosine, learning_rate, scaled_rate, teacher_temperature, warmed_cosine


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    of = [learning_rate(p, peak=1.0, final=0.1, warmup=0.2) for p in (0, 0.1, 0.2, 0.6, 1.0)]
    assert of == pytest.approx([0, 0.5, 1.0, 0.55, 0.1])


def test_without_warmup_it_starts_at_its_peak():
    assert learning_rate(0, peak=3.0, final=0.0, warmup=0.0) == 3.0


def test_it_is_dino_s_schedule():
    """DINO's arrays, restated: linspace(0, base, warmup) and final + (base - final)(1 + cos(pi i / n)) / 2."""
    base, final, n, warm = 5e-4, 1e-6, 100, 10
    rest = n - warm
    theirs = [base * i / warm for i in range(warm)]
    theirs += [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / rest)) for i in range(rest)]
    ours = [learning_rate(i / n, peak=base, final=final, warmup=warm / n) for i in range(n)]
    assert ours == pytest.approx(theirs)


def test_the_rate_is_linear_in_the_batch():
    assert scaled_rate(5e-4, 1024) == pytest.approx(2e-3)


def test_the_teacher_s_momentum_ends_at_one():
    assert [cosine(0.996, 1.0, p) for p in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])


def test_the_teacher_s_temperature():
    of = [teacher_temperature(p, start=0.04, end=0.07, warmup=0.3) for p in (0, 0.15, 0.3, 1)]
    assert of == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert teacher_temperature(0, start=0.04, end=0.07, warmup=0) == 0.07


def test_a_warmed_cosine_by_hand():
    assert warmed_cosine(0, 100, warmup_steps=10) == pytest.approx(0.1)
    assert warmed_cosine(50, 100, warmup_steps=10) == pytest.approx(0.505)
    assert warmed_cosine(100, 100, warmup_steps=0) == pytest.approx(0.01)
