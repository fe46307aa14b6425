"""The benchmark's plain step, written out in loops, gives the losses and centres of the library's."""

import pytest

from benchmarks.pretrain_step import STEPS, TOLERANCE, difference, train_ours, train_plain
from muse_core.training.checkpoint import PRETRAINING
from tests.pretrain.tiny_runs import drawn_dataset, tiny

SAME_WEIGHTS = (f"steps={STEPS}", "optimiser.learning_rate=1e-12", "optimiser.final_learning_rate=0", "run.log_every=1")


@pytest.mark.parametrize("views", ["views.max_nuclei=128", "views.max_nuclei=2"])
def test_the_plain_step_has_the_same_losses(tmp_path, views):
    """L_image and L_nu at three steps: teacher temperatures and centres move in between."""
    rois, settings = drawn_dataset(tmp_path / "rois", count=12), tiny(*SAME_WEIGHTS, views)
    ours = train_ours(rois, tmp_path / "ours", settings)
    plain = train_plain(rois, tmp_path / "ours" / PRETRAINING.file_name, settings)
    assert len(ours.image) == len(plain.nucleus) == STEPS
    assert min(ours.image + ours.nucleus) > 1
    assert len(set(ours.nucleus)) == STEPS
    assert difference(ours, plain) < TOLERANCE
