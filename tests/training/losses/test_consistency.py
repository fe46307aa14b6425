import math

import pytest
import torch

from muse_core.training.losses.consistency import consistency_loss, pseudo_labels, ramp_up


def test_pseudo_labels_are_kept_by_a_threshold_each_for_nuclei_and_background():
    probabilities = torch.tensor(
        [[0.75, 0.15, 0.10], [0.65, 0.25, 0.10], [0.02, 0.02, 0.96], [0.04, 0.06, 0.90], [0.1, 0.7, 0.2]]
    )
    classes, sure = pseudo_labels(probabilities, nucleus_confidence=0.7, background_confidence=0.95)
    assert classes.tolist() == [0, 0, 2, 2, 1]
    assert sure.tolist() == [True, False, True, False, True]


def test_loss_of_sure_rows_over_the_weight_of_all_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [5.0, -5.0]])
    classes, sure = torch.tensor([0, 1, 0]), torch.tensor([True, True, False])
    weights = torch.tensor([2.0, 0.5])
    by_hand = (2.0 * math.log(4 / 3) + 0.5 * math.log(2)) / (2.0 + 0.5 + 2.0)
    assert consistency_loss(logits, classes, sure, weights).item() == pytest.approx(by_hand)


def test_rows_that_are_not_sure_get_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    consistency_loss(logits, torch.tensor([0, 1]), torch.tensor([True, False]), torch.ones(3)).backward()
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_the_teacher_gets_no_gradient():
    teacher = torch.zeros(2, 3, requires_grad=True)
    _, sure = pseudo_labels(teacher.softmax(-1))
    assert not sure.requires_grad


def test_nothing_sure_is_zero():
    loss = consistency_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), torch.ones(3))
    assert loss.item() == 0


def test_ramp():
    assert ramp_up(9, start=10, length=20) == 0
    assert ramp_up(10, start=10, length=20) == pytest.approx(math.exp(-5))
    assert ramp_up(20, start=10, length=20) == pytest.approx(math.exp(-1.25))
    assert ramp_up(30, start=10, length=20) == ramp_up(99, start=10, length=20) == 1
    assert ramp_up(10, start=10, length=0) == pytest.approx(math.exp(-5))
