"""The figures of benchmarks/gpu_pretrain.sh, at sizes that a CPU does in seconds."""

import argparse

import pytest

from benchmarks.gpu_pretrain import MODELS, flops_of, measured
from muse_core.pretrain.settings import PretrainSettings
from tests.pretrain.tiny_runs import OVERRIDES, drawn_dataset

SMALL = ("backbone.preset=test_vit", "backbone.image_px=64", "phases=[]", "accumulate=1", "views.local_px=64")


@pytest.mark.parametrize("name", ["lfov-vit-b16"])
def test_every_figure_is_told(name, tmp_path):
    rois = drawn_dataset(tmp_path / "rois")
    options = {"steps": 6, "batch": 4, "workers": 0, "device": "cpu", "peak_tflops": 1.0}
    row = measured(
        name,
        rois,
        tmp_path / "out",
        argparse.Namespace(**options, set=[*OVERRIDES, *SMALL, "steps=2", "run.log_every=1"]),
    )
    assert (row["model"], row["rois_per_step"]) == (name, 4)
    assert row["views_per_s"] == pytest.approx(4 * row["rois_per_s"])
    assert 0 < row["mfu"] == pytest.approx(row["tflops"])
    assert 0 <= row["data_wait_share"] < 1
    assert row["memory_gib"] > 0
    assert name in MODELS


def test_work_is_counted_view_by_view():
    """Two layers of a ViT on four times as many patches: four times the products, and more in attention."""
    views = {"global_px": 64, "local_px": 32, "local_views": 0}
    settings = PretrainSettings.model_validate(
        {"backbone": {"preset": "test_vit", "image_px": 64}, "views": views, "loss": {"lambda_nu": 0.0}}
    )
    larger = settings.model_copy(update={"views": settings.views.model_copy(update={"global_px": 128})})
    assert 4 <= flops_of(larger) / flops_of(settings) < 6
