import math

import pytest
import torch

from muse_core.errors import ConfigError
from muse_core.evaluate.representation import knn


def plain_knn(bank, class_ids, query, k, n_classes):
    """One query at a time, in double precision, in plain Python."""
    similarity = [
        sum(a * b for a, b in zip(row, query, strict=True)) / (math.hypot(*row) * math.hypot(*query)) for row in bank
    ]
    votes = [0.0] * n_classes
    for row in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
        votes[class_ids[row]] += math.exp(similarity[row] / 0.07)
    return votes.index(max(votes))


def test_the_vote_equals_a_plain_loop(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(80, 6, generator=generator), torch.randn(23, 6, generator=generator)
    class_ids = torch.randint(0, 3, (80,), generator=generator)
    monkeypatch.setattr(knn, "_CHUNK_BYTES", 4 * 80 * 5)  # five queries a chunk
    neighbours = knn.nearest(bank, queries, 40)
    found = knn.vote(neighbours, class_ids, (1, 7, 40), n_classes=3)
    for k, predicted in found.items():
        expected = [plain_knn(bank.tolist(), class_ids.tolist(), query, k, 3) for query in queries.tolist()]
        assert predicted.tolist() == expected
    assert len({tuple(predicted.tolist()) for predicted in found.values()}) == 3  # k matters here


def test_far_similarities_do_not_overflow():
    bank, class_ids = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]), torch.tensor([0, 1, 1])
    found = knn.vote(knn.nearest(bank, torch.tensor([[1e4, 0.0]]), 3), class_ids, (3,), n_classes=2)
    assert found[3].tolist() == [0]


def test_a_small_bank_takes_the_ks_it_has():
    assert knn.usable_ks((500, 10, 20), 15) == (10,)
    assert knn.usable_ks((100, 200), 15) == (15,)
    for wrong in ((), (0, 10)):
        with pytest.raises(ConfigError, match="from 1 on"):
            knn.usable_ks(wrong, 15)
