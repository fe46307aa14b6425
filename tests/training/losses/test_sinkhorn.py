import numpy as np
import pytest
import torch

from muse_core.training.losses.sinkhorn import sinkhorn_probabilities


def plain(cosines, temperature):
    """SwAV's loop on one process, restated in float64 numpy: Q (K, B), 3 times rows to 1 / K and columns to 1 / B."""
    q = np.exp(cosines / temperature).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * b
    return (q * b).T


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_it_is_swav_s_loop(rows):
    cosines = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows)).clamp(-3, 3) / 3
    found = sinkhorn_probabilities(cosines, 0.1)
    np.testing.assert_allclose(found.numpy(), plain(cosines.double().numpy(), 0.1), rtol=1e-4)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(rows))


def test_prototypes_are_used_alike_although_one_is_preferred():
    cosines = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) / 10
    cosines[:, 2] += 0.5
    shares = sinkhorn_probabilities(cosines, 0.1).mean(dim=0)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0.02, atol=0)


def test_no_rows_give_none():
    assert sinkhorn_probabilities(torch.empty(0, 5), 0.1).shape == (0, 5)
