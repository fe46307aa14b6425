"""At which µm/px a slide is shown to a model."""

import pytest

from muse_core.infer.work import seen_mpp


@pytest.mark.parametrize(
    ("slide", "seen"),
    [
        ((0.499, 0.499), 0.499),  # its own px
        ((0.25, 0.25), 0.5),
        ((0.2525, 0.2525), 0.505),  # two by two
        ((0.1627, 0.1627), 0.4881),  # three by three
        ((0.46, 0.46), 0.5),  # too far: resampled
        ((1.0, 1.0), 0.5),  # coarser than the model: enlarged
        ((0.25, 0.26), 0.5),  # px that are not square
    ],
)
def test_whole_px_are_averaged_where_that_is_near_what_the_model_knows(slide, seen):
    assert seen_mpp(0.5, slide) == pytest.approx(seen, abs=1e-9)
