"""What changes rows is hashed, and nothing else."""

import pytest

from muse_core.build.settings import BuildSettings
from muse_core.config import load_settings
from muse_core.infer.settings import InferSettings


@pytest.mark.parametrize(
    "override", ["min_score=0.4", "edge_um=8", "embedding=true", "tissue.overview_mpp=4", "offset_px=[1, 0]"]
)
def test_rows_change(override):
    assert load_settings(InferSettings, None, [override]).tables_hash() != InferSettings().tables_hash()


@pytest.mark.parametrize(
    "override",
    ["window_px=512", "group_tiles=2", "batch_tiles=4", "decode_on_gpu=true", "acquire.max_downloads=2"],
)
def test_rows_stay(override):
    assert load_settings(InferSettings, None, [override]).tables_hash() == InferSettings().tables_hash()


@pytest.mark.parametrize(
    ("override", "same"),
    [("window_px=512", False), ("group_tiles=2", False), ("batch_tiles=4", True), ("decode_on_gpu=true", True)],
)
def test_staged_tiles_of_another_cut_are_not_taken_up(override, same):
    assert (load_settings(InferSettings, None, [override]).pieces_hash() == InferSettings().pieces_hash()) == same


def test_a_build_is_not_redone_for_other_parts():
    assert BuildSettings(chunk_rois=3).tables_hash() == BuildSettings().tables_hash()
