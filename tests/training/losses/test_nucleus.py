import numpy as np
import pytest
import torch

from muse_core.training.losses.distillation import distillation_loss
from muse_core.training.losses.nucleus import matched_nuclei, nucleus_rows, pair_weights

G, V, N, K = 2, 4, 9, 11


def plain_loss(student, teacher, valid, pairs):
    """Equation 6 in loops and float64: student logits (V, N, K), teacher probabilities (G, N, K), valid (V, N)."""
    means = []
    for g, v in pairs:
        terms = []
        for n in range(valid.shape[1]):
            if valid[g, n] and valid[v, n]:
                z = student[v, n] / 0.1
                log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
                terms.append(-(teacher[g, n] * log_p).sum())
        if terms:
            means.append(np.mean(terms))
    return float(np.mean(means)) if means else 0.0


def our_loss(student, teacher, valid, *, student_views="all"):
    matched = matched_nuclei(valid, n_global=G, student_views=student_views)
    rows = nucleus_rows(matched, pair_weights(matched.sum(dim=2)))
    return distillation_loss(
        student[rows.student_view, rows.student_nucleus],
        lambda z: z,
        teacher[rows.teacher_view, rows.teacher_nucleus],
        rows.pairing,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("student_views", ["all", "global"])
def test_it_is_equation_6_averaged_over_each_pair_and_over_pairs(seed, student_views):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(V, N, K, generator=generator)
    teacher = torch.softmax(torch.randn(G, N, K, generator=generator), dim=-1)
    valid = torch.rand(V, N, generator=generator) < 0.5
    last = V if student_views == "all" else G
    pairs = [(g, v) for g in range(G) for v in range(last) if g != v]
    expected = plain_loss(student.double().numpy(), teacher.double().numpy(), valid.numpy(), pairs)
    assert float(our_loss(student, teacher, valid, student_views=student_views)) == pytest.approx(expected, rel=1e-5)


def test_views_that_share_no_nucleus_make_no_pair():
    valid = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    student, teacher = torch.randn(V, 3, K), torch.softmax(torch.randn(G, 3, K), dim=-1)
    expected = plain_loss(student.double().numpy(), teacher.double().numpy(), valid.numpy(), [(0, 2)])
    assert float(our_loss(student, teacher, valid)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [0, 3])
def test_with_no_match_at_all_the_loss_is_zero_and_its_gradient_zeros(n):
    layer = torch.nn.Linear(5, K)
    valid = torch.zeros(V, n, dtype=torch.bool)
    matched = matched_nuclei(valid, n_global=G)
    rows = nucleus_rows(matched, pair_weights(matched.sum(dim=2)))
    loss = distillation_loss(torch.empty(0, 5), layer, torch.empty(0, K), rows.pairing)
    loss.backward()
    assert float(loss.detach()) == 0
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().sum()) == 0


def test_pairs_weigh_alike_however_many_nuclei_they_share():
    """One pair shares a single nucleus, another eight: half of L_nu each, not a mean over the nine."""
    valid = torch.zeros(4, N, dtype=torch.bool)
    valid[0, :], valid[2, 0], valid[3, 1:] = True, True, True
    student, teacher = torch.zeros(4, N, K), torch.softmax(torch.randn(G, N, K), dim=-1)
    student[2, 0] = torch.randn(K)
    single = plain_loss(student.double().numpy(), teacher.double().numpy(), valid.numpy(), [(0, 2)])
    assert float(our_loss(student, teacher, valid)) == pytest.approx((single + np.log(K)) / 2, rel=1e-5)


def test_nuclei_of_all_rois_make_one_mean():
    """Micro-batches weighed by the counts of the whole step: 2 nuclei and 7 are a mean over 9, not of two means."""
    generator = torch.Generator().manual_seed(5)
    student = torch.randn(V, N, K, generator=generator)
    teacher = torch.softmax(torch.randn(G, N, K, generator=generator), dim=-1)
    valid = torch.rand(V, N, generator=generator) < 0.6
    parts = [slice(0, 2), slice(2, N)]
    matched = [matched_nuclei(valid[:, part], n_global=G) for part in parts]
    weights = pair_weights(torch.stack([pairs.sum(dim=2) for pairs in matched]).sum(dim=0))
    losses = []
    for part, pairs in zip(parts, matched, strict=True):
        rows = nucleus_rows(pairs, weights)
        z = student[:, part][rows.student_view, rows.student_nucleus]
        p = teacher[:, part][rows.teacher_view, rows.teacher_nucleus]
        losses.append(float(distillation_loss(z, lambda z: z, p, rows.pairing)))
    assert sum(losses) == pytest.approx(float(our_loss(student, teacher, valid)), rel=1e-5)


def test_the_weight_of_a_match_by_hand():
    """Pair (0, 1) has 4 matches, (1, 0) has 2, the others none: 1 / (matches x pairs that have any)."""
    counts = torch.tensor([[0, 4, 0], [2, 0, 0]])
    assert pair_weights(counts).tolist() == [[0, 1 / 8, 0], [1 / 4, 0, 0]]


def test_each_view_of_a_nucleus_is_listed_once():
    valid = torch.ones(V, 2, dtype=torch.bool)
    matched = matched_nuclei(valid, n_global=G)
    rows = nucleus_rows(matched, pair_weights(matched.sum(dim=2)))
    assert list(zip(rows.teacher_view.tolist(), rows.teacher_nucleus.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert len(rows.student_view) == V * 2
    assert float(rows.pairing.weight.sum()) == pytest.approx(1)
    assert rows.pairing.weight[rows.student_view == 0].tolist() == [[0, pytest.approx(1 / 12)]] * 2
