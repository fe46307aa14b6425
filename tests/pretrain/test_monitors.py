import math

import pytest
import torch

from muse_core.errors import TrainingError
from muse_core.pretrain.monitors import CollapseWatch, Health, health_of


def test_a_teacher_without_preference():
    health = health_of(torch.full((20, 8), 1 / 8), torch.nn.functional.normalize(torch.randn(20, 4), dim=1))
    assert health.entropy == pytest.approx(math.log(8))
    assert health.kl_to_uniform == pytest.approx(0, abs=1e-6)
    assert health.n_rows == 20


def test_a_sure_teacher_that_uses_half_of_its_prototypes():
    probabilities = torch.eye(8)[torch.arange(20) % 4]
    health = health_of(probabilities, torch.eye(4)[torch.arange(20) % 4])
    assert health.entropy == 0
    assert health.marginal_entropy == pytest.approx(math.log(4))
    assert health.used == 4 / 8
    # Four axes in equal shares: variance 1/4 - 1/16 along each.
    assert health.spread == pytest.approx(math.sqrt(4 * 3 / 16))


def test_rows_that_are_all_the_same_have_no_spread():
    health = health_of(torch.eye(8)[torch.zeros(20, dtype=torch.int64)], torch.ones(20, 4) / 2)
    assert health.spread == pytest.approx(0, abs=1e-6)
    assert health.marginal_entropy == 0
    assert health.used == 1 / 8


def test_no_rows_tell_nothing():
    assert health_of(torch.empty(0, 8), torch.empty(0, 4)).n_rows == 0


ALIVE = Health(entropy=1.0, kl_to_uniform=1.0, marginal_entropy=1.0, used=0.5, spread=0.9, n_rows=100)


@pytest.mark.parametrize("bad", [{"kl_to_uniform": 1e-4}, {"spread": 1e-3}])
def test_a_run_ends_when_it_stays_dead(bad):
    watch, dead = CollapseWatch("nucleus"), ALIVE._replace(**bad)
    for health in (dead, dead, ALIVE, dead, dead):
        watch.check(health, 1)
    with pytest.raises(TrainingError, match="step 7: the nucleus teacher has collapsed") as error:
        watch.check(dead, 7)
    assert error.value.reason == "collapsed"


def test_a_few_rows_are_not_judged():
    watch = CollapseWatch("nucleus")
    for _ in range(9):
        watch.check(ALIVE._replace(spread=0.0, n_rows=5), 1)


def test_a_teacher_that_says_one_thing_of_all_is_ended():
    watch = CollapseWatch("image")
    one = ALIVE._replace(marginal_entropy=0.01, used=0.01)
    watch.check(one, 1)
    watch.check(one, 2)
    with pytest.raises(
        TrainingError, match=r"entropy of what it says on the whole 0\.0100 nats.*1\.0% of the prototypes"
    ):
        watch.check(one, 3)
