import pytest
import torch
from torch import nn

from muse_core.training.average import follow


def test_an_average_of_four_steps_by_hand():
    """keep = min(3/4, step / (step + 9)): 0.1, 2/11, 0.25; batch norm's counter is copied."""
    net, average = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        net.weight.fill_(1.0)
        average.weight.fill_(0.0)
    expected = 0.0
    for step in (1, 2, 3):
        net.num_batches_tracked.fill_(step)
        follow(average, net, step=step, steps=4)
        keep = step / (step + 9)
        expected = keep * expected + (1 - keep) * 1.0
        assert average.weight.item() == pytest.approx(expected)
        assert average.num_batches_tracked.item() == step
    follow(average, net, step=1000, steps=4)
    assert average.weight.item() == pytest.approx(0.75 * expected + 0.25)
