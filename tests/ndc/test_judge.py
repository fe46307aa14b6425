"""What of a model's answers is judged, against which labels."""

import numpy as np
import pytest
import torch

from muse_core.detector.calibration import logit
from muse_core.labels.regions import Region
from muse_core.models.backbone import BackboneSettings
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc.checkpoint import NdcHead, build_net
from muse_core.ndc.judge import best_cut, best_shift, calibrated, find_on_regions, judged, shifted


def _region(xy, ids, annotated=None, mpp=0.5, side=100):
    image = np.zeros((side, side, 3), np.uint8)
    return Region("r", "c", image, mpp, annotated, np.array(xy, np.float32).reshape(-1, 2), np.array(ids, np.int64))


def _found(xy, score, ids, n_classes=2):
    probabilities = np.eye(n_classes, dtype=np.float32)[np.array(ids, int)].reshape(-1, n_classes)
    return NucleiFound(np.array(xy, np.float32).reshape(-1, 2), np.array(score, np.float32), probabilities, None)


def test_every_label_of_a_whole_image_counts_also_on_its_last_rim():
    region = _region([(50, 50), (100, 50)], [0, 1])
    assert len(judged(_found([], [], []), region).true_xy) == 2


def test_outside_the_annotated_region_neither_labels_nor_points_count():
    annotated = np.zeros((100, 100), bool)
    annotated[:, :50] = True
    region = _region([(20, 20), (70, 20)], [0, 1], annotated)
    row = judged(_found([(21, 20), (71, 20)], [0.9, 0.9], [0, 1]), region)
    assert row.true_xy.tolist() == [[20, 20]]
    assert row.xy.tolist() == [[21, 20]]


def test_a_score_cuts_off_below_it():
    region = _region([(20, 20)], [0])
    assert len(judged(_found([(20, 20), (60, 60)], [0.9, 0.3], [0, 0]), region, least_score=0.5).xy) == 1


def test_images_of_another_scale_are_shown_at_half_a_um_and_answered_in_their_own_px():
    shapes = []

    def find(images):
        shapes.append(images.shape)
        return [_found([(10, 20)], [0.9], [0])]

    (found,) = find_on_regions(find, [_region([], [], mpp=0.25)])
    assert shapes == [(1, 50, 50, 3)]
    assert found.xy.tolist() == [[20, 40]]


def test_the_best_cut_drops_what_is_false_and_keeps_what_is_right():
    # Scores of right points from 0.6, of false ones up to 0.4: any cut between makes F1 one.
    region = _region([(20, 20), (60, 60)], [0, 1])
    found = _found([(20, 20), (60, 60), (20, 80), (80, 20)], [0.6, 0.9, 0.4, 0.2], [0, 1, 0, 1])
    cut, mean_f1, detection_f1 = best_cut([found], [region], 2)
    assert 0.4 < cut <= 0.6
    assert (mean_f1, detection_f1) == (1, 1)


def test_calibration_puts_the_cut_at_half_and_says_how_often_points_hit():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.02, 0.98, 4000)
    margin = 2.0 * (logit(chance) - logit(0.3))  # the truth: slope 2 around a cut of 0.3
    hit = rng.random(4000) < 1 / (1 + np.exp(-margin))
    spots = np.stack([np.arange(4000) * 20.0 + 10, np.full(4000, 10.0)], 1)
    image = np.zeros((20, 4000 * 20, 3), np.uint8)
    region = Region("r", "c", image, 0.5, None, spots[hit].astype(np.float32), np.zeros(int(hit.sum()), np.int64))
    found = calibrated([_found(spots, chance, np.zeros(4000), 1)], [region], 0.3)
    assert found.heat_at_half == 0.3
    assert found.slope == pytest.approx(2.0, abs=0.2)


def test_classes_are_shifted_to_where_their_f1_is_best_and_the_network_says_so():
    """Of two classes one is overlooked a little: its logit goes up, and the network's own answers with it."""
    rng = np.random.default_rng(0)
    spots = np.stack(np.meshgrid(np.arange(10, 300, 20), np.arange(10, 300, 20)), -1).reshape(-1, 2).astype(np.float32)
    true = rng.integers(0, 2, len(spots))
    margin = np.where(true == 1, 1.0, -1.0) * rng.uniform(0.1, 1.0, len(spots)) - 0.5
    chance = 1 / (1 + np.exp(-margin))
    found = NucleiFound(spots, np.full(len(spots), 0.9, np.float32), np.column_stack([1 - chance, chance]).astype("f4"))
    region = Region("r", "r", np.zeros((300, 300, 3), np.uint8), 0.5, None, spots, true)
    shift = best_shift([found], [region], 2, 0.5)
    assert 0.2 <= shift[1] - shift[0] <= 1.0
    better = shifted(found, shift)
    np.testing.assert_allclose(better.probabilities.sum(1), 1, atol=1e-6)
    assert (better.class_ids == true).mean() > (found.class_ids == true).mean() + 0.1
    head = NdcHead(("a", "b"))
    net = build_net(BackboneSettings(), head).eval()
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        before = net(image).dense
        net.shift_classes(torch.tensor([0.0, 0.7]))
        after = net(image).dense
    np.testing.assert_allclose((after - before)[0, :, 3, 3].numpy(), [0, 0.7, 0], atol=1e-5)
