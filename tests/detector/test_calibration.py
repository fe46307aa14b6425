import numpy as np
import pytest

from muse_core.detector.calibration import Calibration, fitted, logit


def drawn(slope: float, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Heats, and hits as often as a calibration of this slope about 0.4 says."""
    rng = np.random.default_rng(3)
    heat = rng.uniform(0.05, 0.95, n)
    return heat, rng.random(n) < Calibration(0.4, slope).score(heat)


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.5])
def test_the_slope_that_hits_were_drawn_with_is_found(slope):
    found = fitted(*drawn(slope), at_half=0.4)
    assert found.heat_at_half == 0.4
    assert found.slope == pytest.approx(slope, abs=0.1)


def test_points_have_the_say_they_are_given():
    (heat, hit), (other, missed) = drawn(2.5), drawn(0.5)
    heats, hits = np.concatenate([heat, other]), np.concatenate([hit, missed])
    say = np.repeat([1.0, 0.0], len(heat))
    assert fitted(heats, hits, at_half=0.4, say=say) == fitted(heat, hit, at_half=0.4)


def test_the_heat_at_half_scores_a_half():
    assert Calibration(0.3, 2.0).score(np.array([0.3])) == pytest.approx(0.5)
    assert logit(0.5) == pytest.approx(0)
