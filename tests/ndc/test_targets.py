import numpy as np
import torch

from muse_core.models.heat import NO_CLASS
from muse_core.models.ndc import Proposals, grid_points
from muse_core.ndc.samples import Sample
from muse_core.ndc.targets import dense_targets, targets_of

SIDE, SPACING = 64, 8


def _sample(xy, ids, annotated=None, seen=None):
    everywhere = np.ones((SIDE, SIDE), bool)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    seen = everywhere if seen is None else seen
    annotated = seen if annotated is None else annotated
    return Sample(image, image, np.array(xy, float).reshape(-1, 2), np.array(ids, np.int64), seen, annotated)


def _proposals(count=1):
    grid = grid_points(SIDE // SPACING, SIDE // SPACING, SPACING)
    logits = torch.zeros(count, len(grid), 3)
    return Proposals(grid, grid.expand(count, -1, -1).clone(), logits, torch.zeros(count, 3, SIDE // 4, SIDE // 4))


def _targets(*samples):
    return targets_of(_proposals(len(samples)), list(samples), spacing_px=SPACING, distance_weight=0.1)


def test_the_grid_lies_in_the_middle_of_its_cells_row_by_row():
    grid = grid_points(2, 3, 8)
    assert grid.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_the_nearest_proposal_is_the_nucleus_and_the_rest_background():
    targets = _targets(_sample([(13, 11)], [1]))
    assert targets.matched.tolist() == [9]  # row 1, column 1 of 8
    assert targets.nucleus_xy.tolist() == [[13, 11]]
    assert targets.classes[9] == 1
    assert (np.delete(targets.classes.numpy(), 9) == 2).all()
    assert targets.labelled.all()
    assert not targets.unlabelled.any()


def test_rows_of_the_second_sample_come_after_those_of_the_first():
    targets = _targets(_sample([], []), _sample([(4, 4)], [0]))
    assert targets.matched.tolist() == [64]


def test_outside_the_region_nothing_is_background_and_its_nuclei_are_not_used():
    annotated = np.zeros((SIDE, SIDE), bool)
    annotated[:, :32] = True
    targets = _targets(_sample([(12, 12), (52, 12)], [0, 1], annotated=annotated))
    assert targets.matched.tolist() == [9]
    columns = np.arange(64) % 8
    assert np.array_equal(targets.labelled.numpy(), columns < 4)
    # One spacing beside the region is neither: matched proposals may come from there.
    assert np.array_equal(targets.unlabelled.numpy(), columns >= 5)


def test_a_nucleus_at_the_rim_may_have_a_proposal_just_outside():
    annotated = np.zeros((SIDE, SIDE), bool)
    annotated[:, :34] = True  # the column of proposals at x = 36 lies outside
    targets = _targets(_sample([(33.5, 12)], [0], annotated=annotated))
    assert targets.matched.tolist() == [12]  # row 1, column 4, nearer than column 3 at x = 28
    assert targets.labelled[12]
    assert not targets.labelled[4]  # its neighbour above is unmatched and outside: not background


def test_padding_is_neither_labelled_nor_unlabelled():
    seen = np.zeros((SIDE, SIDE), bool)
    seen[:32] = True
    targets = _targets(_sample([(12, 12)], [0], seen=seen, annotated=seen))
    rows = np.arange(64) // 8
    assert np.array_equal(targets.labelled.numpy(), rows < 4)
    assert not targets.unlabelled.any()


def test_dense_targets_peak_at_nuclei_and_know_only_the_region():
    annotated = np.zeros((SIDE, SIDE), bool)
    annotated[:, :40] = True
    heat, classes, known = dense_targets([_sample([(19, 27), (59, 27)], [1, 0], annotated=annotated)], sigma_px=3)
    assert heat.shape == (1, 32, 32)
    assert divmod(int(heat.argmax()), 32) == (13, 9)  # (y, x) = (27, 19) is the middle of pixel (13, 9)
    assert heat.max() == 1
    assert classes[0, 13, 9] == 1
    assert (classes == 0).sum() == 0  # the nucleus outside the region is not drawn
    assert classes[0, 0, 0] == NO_CLASS
    assert np.array_equal(known[0, 0].numpy(), np.arange(32) < 20)
