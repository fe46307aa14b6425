"""Eq. 9 on one sample by hand: left half annotated, right half not."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from muse_core.models.ndc import Proposals, grid_points
from muse_core.ndc.objective import losses_of
from muse_core.ndc.pseudo_labels import pseudo_labelled
from muse_core.ndc.samples import Sample
from muse_core.ndc.settings import FinetuneLossSettings
from muse_core.ndc.targets import dense_targets, targets_of

SIDE, SPACING = 64, 8
WEIGHTS = torch.tensor([1.0, 2.0, 0.5])
SETTINGS = FinetuneLossSettings(reg=0.02, type=1.5, cons=0.7, dense=0, smoothing=0)
COLUMNS = np.arange(64) % 8  # 0..3 annotated; 4 beside the region, which is neither; 5..7 unlabelled


def _sample(xy, ids, seen_to=SIDE):
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    seen, annotated = (np.zeros((SIDE, SIDE), bool) for _ in range(2))
    seen[:, :seen_to], annotated[:, :32] = True, True
    return Sample(image, image, np.array(xy, float).reshape(-1, 2), np.array(ids, np.int64), seen, annotated)


def _proposals(seed=0):
    torch.manual_seed(seed)
    grid = grid_points(SIDE // SPACING, SIDE // SPACING, SPACING)
    logits = torch.randn(1, 64, 3, requires_grad=True)
    xy = (grid + 0.1).expand(1, -1, -1).clone().requires_grad_()
    return Proposals(grid, xy, logits, torch.zeros(1, 3, SIDE // 4, SIDE // 4))


def _losses(proposals, sample, teacher=None, **keywords):
    if teacher is not None:
        keywords["teacher"] = _proposals()._replace(logits=teacher)
    targets = targets_of(proposals, [sample], spacing_px=SPACING, distance_weight=0.1)
    return losses_of(proposals, targets, [sample], weights=WEIGHTS, **({"settings": SETTINGS} | keywords))


def _sure_of(classes):
    """Teacher's logits (1, 64, 3) that are all but certain of a class each."""
    return 20.0 * functional.one_hot(torch.tensor(classes), 3).float()[None]


def test_l_reg_and_l_type_by_hand():
    proposals = _proposals()
    losses = _losses(proposals, _sample([(12, 12), (52, 12)], [1, 0]))
    # Row 9 is at (12.1, 12.1); the nucleus at (52, 12) lies outside the region and is not labelled.
    assert losses.reg.item() == pytest.approx(2 * 0.1**2, rel=1e-4)
    inside = np.flatnonzero(COLUMNS < 4)
    classes = torch.full((len(inside),), 2)
    classes[list(inside).index(9)] = 1
    expected = functional.cross_entropy(proposals.logits[0, inside], classes, weight=WEIGHTS)
    assert losses.type.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.cons.item() == 0
    assert losses.total.item() == pytest.approx(0.02 * losses.reg.item() + 1.5 * losses.type.item(), rel=1e-5)


def test_l_type_pulls_at_proposals_of_the_region_alone():
    proposals = _proposals()
    _losses(proposals, _sample([(12, 12)], [1])).type.backward()
    pulled = proposals.logits.grad[0].abs().sum(1).numpy() > 0
    assert np.array_equal(pulled, COLUMNS < 4)


def test_l_reg_pulls_at_matched_proposals_alone():
    proposals = _proposals()
    _losses(proposals, _sample([(12, 12)], [1])).reg.backward()
    assert np.flatnonzero(proposals.xy.grad[0].abs().sum(1)).tolist() == [9]


def test_l_cons_pulls_outside_the_region_where_the_teacher_is_sure():
    proposals = _proposals()
    teacher = _sure_of([0] * 64)
    teacher[0, COLUMNS == 6] = 0  # a third each: of nothing is it sure there
    _losses(proposals, _sample([(12, 12)], [1]), teacher=teacher, cons_share=1.0).cons.backward()
    pulled = proposals.logits.grad[0].abs().sum(1).numpy() > 0
    assert np.array_equal(pulled, (COLUMNS == 5) | (COLUMNS == 7))


def test_l_cons_by_hand_and_its_share_of_the_total():
    proposals = _proposals()
    with torch.no_grad():
        proposals.logits.zero_()
    teacher = _sure_of([2] * 64)
    teacher[0, 13] = torch.tensor([20.0, 0, 0])  # row 1, column 5
    found = [_losses(proposals, _sample([(12, 12)], [1]), teacher=teacher, cons_share=share) for share in (1.0, 0.25)]
    # Of 24 proposals one is a nucleus of weight 1, 23 are background of weight 0.5; each costs log 3.
    assert found[0].cons.item() == pytest.approx(math.log(3), rel=1e-5)
    rest = 0.02 * found[0].reg.item() + 1.5 * found[0].type.item()
    assert found[0].total.item() == pytest.approx(rest + 0.7 * math.log(3), rel=1e-5)
    assert found[1].total.item() == pytest.approx(rest + 0.25 * 0.7 * math.log(3), rel=1e-5)


def test_what_the_teacher_says_of_the_region_or_of_padding_counts_for_nothing():
    sample = _sample([(12, 12)], [1], seen_to=48)  # columns 6 and 7 are padding
    teacher = _sure_of([0] * 64)
    other = teacher.clone()
    other[0, (COLUMNS < 5) | (COLUMNS > 5)] = torch.tensor([0, 20.0, 0])
    values = [_losses(_proposals(), sample, teacher=one, cons_share=1.0).cons.item() for one in (teacher, other)]
    assert values[0] == values[1] > 0


def test_without_nuclei_there_is_background_to_learn_and_nothing_breaks():
    sample, proposals = _sample([], []), _proposals()
    heat, _, _ = dense_targets([sample], sigma_px=3.0)
    proposals = proposals._replace(dense=torch.zeros(1, 3, *heat.shape[1:]))
    losses = _losses(proposals, sample, settings=SETTINGS.model_copy(update={"dense": 1.0}))
    assert losses.dense.item() > 0
    assert losses.reg.item() == 0
    assert losses.type.item() > 0
    losses.total.backward()


SURE = 5.0  # a logit; its sigmoid is 0.993


def _dense_teacher(heat_at):
    """Says class 0 everywhere, and a nucleus of such a heat at each (row, column) of the map at stride 2."""
    dense = torch.zeros(1, 3, 32, 32)
    dense[:, 0], dense[:, -1] = SURE, -20.0
    for (row, column), logit in heat_at.items():
        # a bump, as a top is looked for in the smoothed heat
        dense[0, -1, row - 1 : row + 2, column - 1 : column + 2] = logit
    return dense


def test_the_dense_head_learns_from_what_the_teacher_is_sure_of():
    sample = _sample([(12, 12)], [1])
    dense = _dense_teacher({(10, 25): SURE, (22, 25): 0.0, (5, 5): SURE})  # sure, doubtful, in the annotated region
    (pseudo,) = pseudo_labelled([sample], dense, SETTINGS)
    np.testing.assert_allclose(pseudo.xy, [[11, 11], [51, 21]], atol=0.5)
    assert pseudo.class_ids.tolist() == [0, 0]
    assert pseudo.annotated[21, 51]
    assert not pseudo.annotated[45, 51], "doubtful"
    assert not pseudo.annotated[:, :38].any(), "the annotated region, and what a nucleus of it reaches"
    assert pseudo.annotated[:, 40:].mean() > 0.8


def test_dense_loss_by_hand():
    """Heat 0.5 and both classes alike everywhere: log 2 of cross entropy with any heat, and log 2 of the classes."""
    proposals = _proposals()._replace(dense=torch.zeros(1, 3, 32, 32, requires_grad=True))
    settings = SETTINGS.model_copy(update={"dense": 1.0})
    losses = _losses(proposals, _sample([(12, 12), (20, 40)], [1, 0]), settings=settings)
    assert losses.dense.item() == pytest.approx(2 * math.log(2), rel=1e-5)
    losses.dense.backward()
    pulled = proposals.dense.grad[0].abs().sum(0) > 0
    assert bool(pulled[:, :16].all())
    assert not bool(pulled[:, 16:].any())


def test_l_cons_of_the_dense_head_pulls_outside_the_region_alone():
    settings = SETTINGS.model_copy(update={"dense": 1.0})
    proposals = _proposals()._replace(dense=torch.zeros(1, 3, 32, 32, requires_grad=True))
    sample = _sample([(12, 12)], [1])
    teacher = _proposals()._replace(dense=_dense_teacher({(10, 25): SURE, (22, 25): 0.0}))
    targets = targets_of(proposals, [sample], spacing_px=SPACING, distance_weight=0.1)
    keywords = {"weights": WEIGHTS, "settings": settings, "teacher": teacher, "cons_share": 1.0}
    losses_of(proposals, targets, [sample], **keywords).cons.backward()
    heat = proposals.dense.grad[0, -1]
    assert not bool(heat[:, :19].any())
    assert heat[10, 25] < 0 < heat[2, 30], "up at the nucleus, down where there is none"
    assert heat[22, 25] == 0, "nothing where the teacher is in doubt"
