import math

import pytest
import torch
from torch.nn import functional

from muse_core.training.losses.classification import class_weights, soft_targets, type_loss


def test_weights_even_out_by_the_root_of_the_counts_with_a_mean_of_one():
    weights = class_weights(torch.tensor([400, 100]), power=0.5, background=0.3)
    assert weights[1] / weights[0] == pytest.approx(2.0)
    assert (400 * weights[0] + 100 * weights[1]).item() / 500 == pytest.approx(1.0)
    assert weights[2].item() == pytest.approx(0.3)


def test_power_zero_treats_nuclei_alike_and_one_treats_classes_alike():
    assert class_weights(torch.tensor([400, 100]), power=0, background=1).tolist() == [1, 1, 1]
    even = class_weights(torch.tensor([400, 100]), power=1, background=1)
    assert (400 * even[0]).item() == pytest.approx((100 * even[1]).item())


def test_a_class_without_labels_weighs_as_the_rarest():
    weights = class_weights(torch.tensor([400, 100, 0]), power=0.5, background=1)
    assert weights[2] == weights[1]


def test_smoothing_is_shared_among_classes_and_spares_the_background():
    targets = soft_targets(torch.tensor([0, 3]), 3, smoothing=0.3)
    assert targets[0].tolist() == pytest.approx([0.8, 0.1, 0.1, 0.0])
    assert targets[1].tolist() == [0, 0, 0, 1]


def test_loss_of_two_rows_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weights = torch.tensor([2.0, 0.5])
    by_hand = (2.0 * math.log(4 / 3) + 0.5 * math.log(2)) / 2.5
    assert type_loss(logits, targets, weights).item() == pytest.approx(by_hand)


def test_hard_targets_give_what_torch_gives():
    torch.manual_seed(0)
    logits, classes = torch.randn(50, 4), torch.randint(0, 4, (50,))
    weights = torch.tensor([1.0, 2.0, 0.5, 0.1])
    ours = type_loss(logits, soft_targets(classes, 3), weights)
    assert ours.item() == pytest.approx(functional.cross_entropy(logits, classes, weight=weights).item(), rel=1e-5)


def test_no_row_is_zero():
    assert type_loss(torch.zeros(0, 3), torch.zeros(0, 3), torch.ones(3)).item() == 0
