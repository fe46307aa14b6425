import numpy as np
import pytest
import torch

from muse_core.models.heads import ProjectionHead
from muse_core.training.losses.centre import TeacherCentre
from muse_core.training.losses.distillation import distillation_loss
from muse_core.training.losses.image import image_pairing

G, V, B, K = 2, 5, 3, 16
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1


def published_dino_loss(student, teacher, centre):
    """DINO's loop as published, in float64 numpy: student (V, B, K), teacher (G, B, K), centre (K,).

    Recipe: for each teacher view, for each student view but the same one, the mean over the batch of
    sum(-q * log_softmax(z / 0.1)) with q = softmax((t - c) / 0.04); divided by the number of pairs.
    """

    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    total, n_terms = 0.0, 0
    for iq in range(len(teacher)):
        q = softmax((teacher[iq] - centre) / TEACHER_TEMPERATURE)
        for v in range(len(student)):
            if v == iq:
                continue
            total += np.mean(np.sum(-q * np.log(softmax(student[v] / STUDENT_TEMPERATURE)), axis=-1))
            n_terms += 1
    return total / n_terms


def our_loss(student, teacher, centre, chunk_rows=4096):
    module = TeacherCentre(student.shape[-1])
    module.centre.copy_(torch.as_tensor(centre))
    probabilities = module.probabilities(teacher, TEACHER_TEMPERATURE).flatten(0, 1)
    return distillation_loss(
        student.flatten(0, 1),
        lambda rows: rows,
        probabilities,
        image_pairing(len(teacher), len(student), student.shape[1]),
        temperature=STUDENT_TEMPERATURE,
        chunk_rows=chunk_rows,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_global", [1, 2, 3])
def test_it_is_the_published_dino_loss(seed, n_global):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(V, B, K, generator=generator) * 0.2
    teacher = torch.randn(n_global, B, K, generator=generator) * 0.2
    centre = torch.randn(K, generator=generator) * 0.1
    expected = published_dino_loss(student.double().numpy(), teacher.double().numpy(), centre.double().numpy())
    assert float(our_loss(student, teacher, centre)) == pytest.approx(expected, rel=2e-6)


def drawn_logits(step, rows):
    """(rows, 6) numbers that any program can make again."""
    return torch.sin(1.7 * torch.arange(rows * 6, dtype=torch.float64).view(rows, 6) + step) * 0.9


def test_numbers_of_the_published_code():
    """Four steps of `DINOLoss(6, ncrops=5, 0.04, 0.07, 3, 10)` with 3 images, one process, float64; then its centre.

    Numbers from main_dino.py, https://github.com/facebookresearch/dino, commit 04c0ad9, its schedule asked at epochs
    0, 1, 2 and 5.
    """
    published = (7.794230682466908, 7.641900874265008, 9.850169537619141, 8.702487901358094)
    centre, losses = TeacherCentre(6), []
    for step, temperature in enumerate((0.04, 0.055, 0.07, 0.07)):
        student, teacher = drawn_logits(step, 15).flip(1).float(), drawn_logits(step + 0.5, 6).float()
        said = centre.probabilities(teacher, temperature)
        losses.append(float(distillation_loss(student, lambda z: z, said, image_pairing(2, 5, 3))))
        centre.update()
    assert losses == pytest.approx(published, rel=1e-6)
    assert centre.centre.tolist() == pytest.approx(
        [0.0107476463, -0.0175275668, -0.0062309854, 0.0191332231, 0.0013005645, -0.0194683642], abs=1e-8
    )


def test_a_uniform_teacher_and_student_cost_the_log_of_k():
    assert float(our_loss(torch.zeros(V, B, K), torch.zeros(G, B, K), torch.zeros(K))) == pytest.approx(np.log(K))


def test_chunks_change_neither_loss_nor_gradient():
    torch.manual_seed(0)
    head = ProjectionHead(8, K, hidden=12, bottleneck=6)
    features = torch.randn(V * B, 8, requires_grad=True)
    probabilities = torch.softmax(torch.randn(G * B, K), dim=-1)
    found = []
    for chunk_rows in (100, 4):
        head.zero_grad()
        features.grad = None
        loss = distillation_loss(
            head.bottleneck(features), head.last_layer, probabilities, image_pairing(G, V, B), chunk_rows=chunk_rows
        )
        loss.backward()
        found.append((loss.detach(), features.grad, head.last_layer.directions.grad.clone()))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_the_gradient_is_that_of_the_plain_form():
    student = torch.randn(V, B, K, dtype=torch.float64, requires_grad=True)
    teacher = torch.softmax(torch.randn(G, B, K, dtype=torch.float64), dim=-1)
    pairs = [(g, v) for g in range(G) for v in range(V) if g != v]
    plain = sum(-(teacher[g] * torch.log_softmax(student[v] / 0.1, -1)).sum(-1).mean() for g, v in pairs) / len(pairs)
    (expected,) = torch.autograd.grad(plain, student)
    loss = distillation_loss(student.flatten(0, 1), lambda z: z, teacher.flatten(0, 1).float(), image_pairing(G, V, B))
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_one_view_alone_has_no_pair():
    assert float(our_loss(torch.randn(1, B, K), torch.randn(1, B, K), torch.zeros(K))) == 0
