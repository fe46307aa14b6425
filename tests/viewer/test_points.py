"""Squares of points: together they are the slide, each nucleus once, to a sixteenth of a px."""

import numpy as np
from scipy.spatial import cKDTree

from muse_core.nuclei_dataset import NucleiDataset
from muse_core.viewer.points import POINT, TILE_PX, points_in_tile
from tests.data.make_nuclei import write_slide


def test_squares_hold_every_nucleus_once_with_its_facts(tmp_path):
    points = write_slide(tmp_path, 5000)
    dataset = NucleiDataset(tmp_path)
    xy, facts = [], []
    for row in range(2):
        for column in range(2):
            square = np.frombuffer(points_in_tile(dataset, "S1", column, row), POINT)
            corner = np.array([column, row]) * TILE_PX
            xy.append(np.stack([square["x"], square["y"]], axis=1) / 16 + corner)
            facts.append(np.stack([square["class"], square["score"], square["chance"], square["in_tissue"]], axis=1))
    xy, facts = np.concatenate(xy), np.concatenate(facts).astype(float)
    assert len(xy) == 5000
    distance, nearest = cKDTree(xy).query(points.xy_level0)
    assert distance.max() < 0.06
    assert len(set(nearest.tolist())) == 5000
    own = points.probabilities[np.arange(5000), points.class_ids]
    expected = np.stack([points.class_ids, 255 * points.score, 255 * own, points.in_tissue], axis=1)
    np.testing.assert_allclose(facts[nearest], expected, atol=0.51)


def test_a_square_beyond_the_slide_is_empty(tmp_path):
    write_slide(tmp_path, 10)
    assert points_in_tile(NucleiDataset(tmp_path), "S1", 9, 9) == b""
