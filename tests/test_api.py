"""The calls that `muse_core` hands on: which they are, that they are lazy, and that they do what their commands do."""

import importlib
import inspect
import subprocess
import sys

import pytest

import muse_core
from muse_core.build.settings import BuildSettings
from muse_core.config import settings_of

PUBLIC = [
    "read_manifest",
    "open_slide",
    "find_tissue",
    "build",
    "import_patches",
    "pretrain",
    "train_detector",
    "finetune",
    "infer",
    "evaluate",
    "write_report",
    "RoiDataset",
    "NucleiDataset",
    "load_nucleus_model",
    "load_backbone",
    "Box",
    "MuseError",
]


def test_public_names_are_these():
    assert list(muse_core.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(muse_core))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_can_be_had_is_callable_and_documented(name):
    thing = getattr(muse_core, name)
    assert callable(thing)
    assert thing.__doc__
    if not inspect.isclass(thing):
        assert inspect.signature(thing).parameters


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    code = "import sys, muse_core; print([n for n in ('torch', 'pyarrow', 'numpy', 'cv2', 'dask') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_a_call_that_shares_a_packages_name_stays_a_call_after_the_package_was_imported(tmp_path):
    for name in ("build", "pretrain", "infer", "evaluate"):
        package = importlib.import_module(f"muse_core.{name}")
        assert getattr(muse_core, name) is package
        assert callable(package)
    assert muse_core.build.settings.BuildSettings is BuildSettings
    with pytest.raises(muse_core.MuseError, match=r"no-such\.csv"):
        muse_core.build("no-such.csv", out=tmp_path / "never")


def test_settings_are_given_by_name_nested_or_whole():
    flat = settings_of(BuildSettings, {"rois.max_per_slide": 20, "detector": "none"})
    nested = settings_of(BuildSettings, {"rois": {"max_per_slide": 20}, "detector": "none"})
    assert flat == nested == settings_of(BuildSettings, flat)
    assert flat.rois.max_per_slide == 20
    assert settings_of(BuildSettings, {"rois.size_px": 1024}, flat).rois.max_per_slide == 20
    with pytest.raises(muse_core.MuseError, match=r"unknown key 'rois\.max_per_slid'"):
        settings_of(BuildSettings, {"rois.max_per_slid": 20})
    with pytest.raises(muse_core.MuseError, match="values by name"):
        settings_of(BuildSettings, "rois.max_per_slide=20")


def test_unknown_names_are_no_attributes():
    with pytest.raises(AttributeError, match="no attribute 'inferr'"):
        muse_core.inferr  # noqa: B018
