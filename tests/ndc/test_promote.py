"""A checkpoint against the one in use: both scored on the same drawn patches."""

import cv2
import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.ndc import promote as module
from muse_core.ndc import start
from muse_core.ndc.promote import promote, run_id, score_on_validation
from muse_core.ndc.registry import read_current, register_if_better
from muse_core.ndc.settings import FinetuneSettings
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import write_brca

SETTINGS = FinetuneSettings()


@pytest.fixture
def data(tmp_path):
    write_brca(tmp_path / "data", side_px=128, n_nuclei=6)
    return tmp_path / "data"


def offer(registry, checkpoint, data):
    score = score_on_validation(checkpoint, "brca-m2c", data, settings=SETTINGS)
    return promote(registry, checkpoint, (score,), "brca-m2c", data, settings=SETTINGS)


def test_the_weights_that_ship_are_in_use_at_first(tmp_path, data, monkeypatch):
    shipped = write_random_ndc(tmp_path / "muse-nano-ndc.safetensors")
    monkeypatch.setattr(module, "MUSE_NANO_NDC", shipped)
    decision = offer(tmp_path / "models", shipped, data)
    assert not decision.taken, "no better than itself"
    assert decision.in_use == decision.candidate
    assert decision.current.source == str(shipped)
    assert decision.candidate.n_labels == 6
    assert set(decision.candidate.class_f1) == {"lymphocyte", "tumour_epithelial", "stromal"}


@pytest.mark.slow
def test_the_one_in_use_is_scored_on_labels_it_has_not_been(tmp_path, data, monkeypatch):
    monkeypatch.setattr(module, "MUSE_NANO_NDC", tmp_path / "none ship")
    registry, one = tmp_path / "models", write_random_ndc(tmp_path / "one.safetensors")
    assert offer(registry, one, data).in_use is None
    write_brca(data, side_px=128, n_nuclei=7)
    decision = offer(registry, write_random_ndc(tmp_path / "two.safetensors", seed=1), data)
    assert decision.in_use is not None
    assert decision.in_use.measure == decision.candidate.measure
    assert len(read_current(registry).scores) == (1 if decision.taken else 2)


def test_a_registry_of_other_classes_is_left_alone(tmp_path, data):
    registry = tmp_path / "models"
    other = write_random_ndc(tmp_path / "other.safetensors", class_names=("mast cell", "plasma cell"))
    score = score_on_validation(write_random_ndc(tmp_path / "one.safetensors"), "brca-m2c", data, settings=SETTINGS)
    elsewhere = score.model_copy(update={"measure": score.measure.model_copy(update={"dataset": "lab"})})
    register_if_better(registry, other, (elsewhere,))
    with pytest.raises(ConfigError, match="give a registry folder of its own"):
        offer(registry, tmp_path / "one.safetensors", data)


def test_runs_are_told_apart_by_labels_start_tissue_and_settings(tmp_path, data, monkeypatch):
    tissue = tmp_path / "tissue"
    tissue.mkdir()

    def name(**changes) -> str:
        values = {"init": "none", "unlabelled": None, "unlabelled_mpp": None, "settings": SETTINGS}
        return run_id("brca-m2c", data, **(values | changes))

    def with_tissue(brightness: int, mpp: float) -> str:
        cv2.imwrite(str(tissue / "a.png"), np.full((64, 64, 3), brightness, np.uint8))
        return name(unlabelled=str(tissue), unlabelled_mpp=mpp)

    shipped = write_random_ndc(tmp_path / "muse-nano-ndc.safetensors")
    monkeypatch.setitem(start._SHIPPED, "muse-nano-ndc", shipped)
    names = [name(), name(init="imagenet"), name(settings=FinetuneSettings(seed=1)), name(init="muse-nano-ndc")]
    assert name(init="muse-nano-ndc") == names[3]
    write_random_ndc(shipped, seed=1)
    names += [name(init="muse-nano-ndc"), with_tissue(200, 0.5), with_tissue(200, 0.25), with_tissue(201, 0.5)]
    (data / "labels" / "t0_gt_class_coords.txt").write_text("50 50 1")
    names.append(name())
    assert len(set(names)) == len(names) == 9
    assert name() == names[-1]
