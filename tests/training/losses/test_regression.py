import pytest
import torch

from muse_core.training.losses.regression import regression_loss


def test_squared_distance_in_px_averaged_over_nuclei():
    predicted = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
    nuclei = torch.tensor([[3.0, 4.0], [10.0, 12.0]])
    assert regression_loss(predicted, nuclei).item() == pytest.approx((25 + 4) / 2)


def test_no_nucleus_is_zero_and_still_has_a_gradient():
    predicted = torch.zeros(0, 2, requires_grad=True)
    loss = regression_loss(predicted, torch.zeros(0, 2))
    loss.backward()
    assert loss.item() == 0


def test_its_gradient_moves_a_proposal_towards_its_nucleus():
    predicted = torch.tensor([[1.0, 1.0]], requires_grad=True)
    regression_loss(predicted, torch.tensor([[4.0, 1.0]])).backward()
    assert predicted.grad.tolist() == [[-6.0, 0.0]]
