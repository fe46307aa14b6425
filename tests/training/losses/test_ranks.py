"""Two processes over gloo, with unequal and empty sets of nuclei, against one process that has them all."""

import socket

import pytest
import torch
from torch import distributed, multiprocessing

from muse_core.training.losses.centre import TeacherCentre
from muse_core.training.losses.distillation import distillation_loss
from muse_core.training.losses.nucleus import matched_nuclei, nucleus_rows, pair_weights

G, V, K, D = 2, 3, 7, 4


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def share(counts, rank):
    """Nuclei of one process: student features (V, n, D), teacher logits (G, n, K), valid (V, n)."""
    generator = torch.Generator().manual_seed(3)
    total = sum(counts)
    everything = (
        torch.randn(V, total, D, generator=generator),
        torch.randn(G, total, K, generator=generator),
        torch.rand(V, total, generator=generator) < 0.7,
    )
    start = sum(counts[:rank])
    return tuple(tensor[:, start : start + counts[rank]] for tensor in everything)


def gradient_of(features, teacher_logits, valid):
    """Loss, gradient of the prototypes and centre after one step."""
    centre, layer = TeacherCentre(K), torch.nn.Linear(D, K, bias=False)
    torch.nn.init.constant_(layer.weight, 0.1)
    with torch.no_grad():
        layer.weight += torch.arange(K * D).reshape(K, D) / 50
    matched = matched_nuclei(valid, n_global=G)
    rows = nucleus_rows(matched, pair_weights(matched.sum(dim=2)))
    probabilities = centre.probabilities(teacher_logits[rows.teacher_view, rows.teacher_nucleus], 0.5)
    loss = distillation_loss(
        features[rows.student_view, rows.student_nucleus], layer, probabilities, rows.pairing, temperature=1.0
    )
    loss.backward()
    centre.update()
    return loss.detach(), layer.weight.grad, centre.centre


def _process(rank, counts, port, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(counts))
    loss, gradient, centre = gradient_of(*share(counts, rank))
    for tensor in (loss, gradient):  # what DistributedDataParallel does
        distributed.all_reduce(tensor)
        tensor /= len(counts)
    if rank == 0:
        torch.save((loss, gradient, centre), results)
    distributed.destroy_process_group()


@pytest.mark.parametrize("counts", [(9, 3), (8, 0), (0, 0)])
def test_two_processes_equal_one(counts, tmp_path):
    results = tmp_path / "results.pt"
    multiprocessing.spawn(_process, args=(counts, free_port(), results), nprocs=2)
    found = torch.load(results, weights_only=True)
    expected = gradient_of(*share((sum(counts),), 0))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    assert (float(expected[1].abs().sum()) > 0) == (sum(counts) > 0)
