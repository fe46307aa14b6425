"""Pretraining that takes a second: a drawn dataset, a tiny network of timm, views of 64 px."""

from pathlib import Path

from muse_core.config import load_settings
from muse_core.pretrain.settings import PretrainSettings
from tests.pretrain.views.drawn_rois import roi_row, write_dataset

DEFAULTS = Path(__file__).parent / "defaults.toml"
OVERRIDES = (
    "steps=6",
    "batch_size=4",
    "precision=fp32",
    "backbone.preset=test_efficientnet",
    "backbone.imagenet=false",
    "views.global_px=64",
    "views.local_px=32",
    "views.local_views=2",
    "image_head.prototypes=24",
    "image_head.hidden=16",
    "image_head.bottleneck=8",
    "nucleus_head.prototypes=32",
    "nucleus_head.hidden=16",
    "nucleus_head.bottleneck=8",
    "optimiser.learning_rate=0.1",
    "run.threads=1",
    "run.log_every=2",
    "run.checkpoint_minutes=60",
)


def tiny(*overrides):
    return load_settings(PretrainSettings, overrides=[*OVERRIDES, *overrides])


def arguments(*overrides):
    """The same as options of `muse pretrain`."""
    settings = [word for override in (*OVERRIDES, *overrides) for word in ("--set", override)]
    return ["--config", str(DEFAULTS), *settings]


def drawn_dataset(out, count=10, **options):
    return write_dataset(out, [roi_row(number, **options) for number in range(count)])
