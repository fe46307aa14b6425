"""The pyramid of counts against counting by hand, and what is kept beside the part."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from muse_core.nuclei_dataset import NucleiDataset
from muse_core.viewer import digest as module
from muse_core.viewer.digest import Cut, cell_side, count_cut, make_digest, read_digest
from tests.data.make_nuclei import write_slide

SIZE = (8000.0, 8000.0)


@pytest.fixture
def slide(tmp_path):
    points = write_slide(tmp_path, 3000)
    return NucleiDataset(tmp_path), points


def test_every_nucleus_is_counted_once_in_its_cell_at_every_level(slide):
    dataset, points = slide
    made = make_digest(dataset, "S1", SIZE)
    assert made.cell_px == 32
    rows = (points.xy_level0[:, 1] / 32).astype(int)
    columns = (points.xy_level0[:, 0] / 32).astype(int)
    by_hand = np.zeros((3, 250, 250), int)
    np.add.at(by_hand, (points.class_ids, rows, columns), 1)
    np.testing.assert_array_equal(made.levels[0], by_hand)
    assert [level.shape[1:] for level in made.levels] == [(250, 250), (125, 125), (63, 63)]
    assert all(level.sum() == 3000 for level in made.levels)
    np.testing.assert_array_equal(made.counts, np.bincount(points.class_ids, minlength=3))
    np.testing.assert_array_equal(made.in_tissue, np.bincount(points.class_ids[points.in_tissue], minlength=3))


def test_memory_does_not_grow_with_the_number_of_nuclei(tmp_path):
    """Three times the nuclei in little more memory."""
    peaks = []
    for count in (100_000, 300_000):
        write_slide(tmp_path / str(count), count)
        dataset = NucleiDataset(tmp_path / str(count))
        before = pa.total_allocated_bytes()
        arrow_peak = 0
        tracemalloc.start()
        for table in dataset.tables("S1", ["nucleus_id", "x_level0"]):  # how much is read at a time
            arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - before, table.nbytes)
        make_digest(dataset, "S1", SIZE)
        peaks.append(tracemalloc.get_traced_memory()[1] + arrow_peak)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 100e6


def test_a_cut_leaves_out_low_scores_and_improbable_classes(slide):
    dataset, points = slide
    cut = Cut(score=0.8, probability=0.6)
    own = points.probabilities[np.arange(3000), points.class_ids]
    kept = ((points.score >= cut.score) & (own >= cut.probability)).sum()
    assert 0 < kept < 3000
    assert all(level.sum() == kept for level in count_cut(dataset, "S1", SIZE, cut))


def test_doubtful_nuclei_lie_between_two_classes_and_typical_ones_do_not(slide):
    dataset, _ = slide
    made = make_digest(dataset, "S1", SIZE)

    def margin(asked):
        best = np.sort(asked.probabilities, axis=1)
        return best[:, -1] - best[:, -2]

    assert len(made.doubtful.merit) == 256
    assert np.median(margin(made.doubtful)) < 0.1
    for class_id, asked in enumerate(made.typical):
        assert (asked.class_ids == class_id).all()
        assert np.median(margin(asked)) > 0.6
    assert (np.diff(made.doubtful.merit) <= 0).all()


def test_the_digest_is_kept_and_made_anew_when_the_nuclei_change(tmp_path, slide, monkeypatch):
    dataset, _ = slide
    first = read_digest(dataset, "S1", SIZE)
    kept = next(tmp_path.rglob("_digest.npz"))
    with monkeypatch.context() as patched:
        patched.setattr(module, "make_digest", lambda *_: pytest.fail("it was kept"))
        second = read_digest(dataset, "S1", SIZE)
    for one, other in zip(first.levels, second.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.typical[1].xy_level0, second.typical[1].xy_level0)
    kept.write_bytes(kept.read_bytes()[:200])
    assert read_digest(dataset, "S1", SIZE).counts.sum() == 3000
    write_slide(tmp_path, 2000)
    assert read_digest(NucleiDataset(tmp_path), "S1", SIZE).counts.sum() == 2000


def test_what_is_kept_does_not_disturb_other_readers(tmp_path, slide):
    read_digest(slide[0], "S1", SIZE)
    import pyarrow.dataset

    assert NucleiDataset(tmp_path).slide_ids == ["S1"]
    assert pyarrow.dataset.dataset(tmp_path / "nuclei", partitioning=None).count_rows() == 3000


@pytest.mark.parametrize(("side", "cell"), [(100, 32), (32768, 32), (32769, 64), (200_000, 256)])
def test_the_grid_stays_small_however_large_the_slide(side, cell):
    assert cell_side((side, 10.0)) == cell
