import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import muse_core.detector as recipes_folder
from muse_core.config import load_settings
from muse_core.detector.augment import AugmentSettings
from muse_core.detector.learned import LearnedDetector
from muse_core.detector.settings import TrainDetectorSettings
from muse_core.detector.train import train_detector
from muse_core.errors import ConfigError, DatasetError, OutputError
from muse_core.evaluate.detect import evaluate_detector
from muse_core.labels import BRCA_CLASS_NAMES, UNKNOWN_CLASS
from muse_core.labels.datasets import LabelledData, Source, one_dataset, read_datasets_file
from muse_core.training.checkpoint import DETECTOR_TRAINING
from tests.data.make_patches import write_brca
from tests.data.small_disk import largest_file

pytestmark = pytest.mark.usefixtures("no_pictures")  # of one run they are drawn

TINY = TrainDetectorSettings(
    steps=4, batch_size=2, side_px=64, validate_every=2, average_steps=2, imagenet=False, threads=1, warmup_steps=1
)


def brca(root) -> LabelledData:
    return one_dataset("brca-m2c", root)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=3, val=1)
    return root


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run as it is, and what it told on the way."""
    seen = []
    out = tmp_path_factory.mktemp("run")
    return out, train_detector(brca(data), out, settings=TINY, on_progress=seen.append), seen


def test_a_run_writes_weights_record_curves_and_settings(data, whole):
    out, result, seen = whole
    assert seen[-1].step == seen[-1].steps == 4
    assert seen[-1].score is not None
    record = json.loads((out / "training.json").read_text())
    assert [step for step, _ in record["validations"]] == [2, 4]
    assert len(record["losses"]) == 4
    assert record["f1"] == pytest.approx(result.f1)
    assert TrainDetectorSettings.model_validate_json((out / "config.json").read_text()) == TINY
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    with safe_open(result.weights, framework="np") as file:
        assert json.loads(file.metadata()["class_names"]) == list(BRCA_CLASS_NAMES)
    answer = evaluate_detector(LearnedDetector.from_file(result.weights), "brca-m2c", data)
    assert answer["f1"] == pytest.approx(result.f1, abs=0.02)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(data, tmp_path):
    weights = [
        load_file(
            train_detector(brca(data), tmp_path / str(i), settings=TINY.model_copy(update={"seed": seed})).weights
        )
        for i, seed in enumerate((5, 5, 6))
    ]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not np.array_equal(weights[0]["head.weight"], weights[2]["head.weight"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, tmp_path):
    class StoppedError(Exception):
        pass

    def stop():
        if next(asked):
            raise StoppedError
        return False

    asked = iter([False, False, True])  # in step 3; the last state is of step 2
    settings = TINY.model_copy(update={"steps": 6})
    whole = train_detector(brca(data), tmp_path / "whole", settings=settings)
    with pytest.raises(StoppedError):
        train_detector(brca(data), tmp_path / "cut", settings=settings, should_stop=stop)
    resumed = train_detector(brca(data), tmp_path / "cut", settings=settings, resume=True)
    one, two = load_file(whole.weights), load_file(resumed.weights)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    with pytest.raises(ConfigError, match=r"other settings \(steps = 6 instead of 4\)"):
        train_detector(brca(data), tmp_path / "cut", settings=TINY, resume=True)
    with pytest.raises(ConfigError, match="holds a run; go on with --resume"):
        train_detector(brca(data), tmp_path / "cut", settings=settings)


def test_a_run_that_is_asked_to_stop_keeps_its_state(data, tmp_path):
    asked = iter([False, True])
    result = train_detector(brca(data), tmp_path, settings=TINY, should_stop=lambda: next(asked))
    assert (result.step, result.steps, result.weights.exists()) == (2, 4, False)
    assert math.isnan(result.f1)
    assert train_detector(brca(data), tmp_path, settings=TINY, resume=True).weights.exists()


@pytest.fixture(scope="module")
def stored(whole):
    """The state of a run."""
    return (whole[0] / DETECTOR_TRAINING.file_name).read_bytes()


def test_labels_that_changed_are_not_gone_on_with(stored, tmp_path):
    other = tmp_path / "other"
    write_brca(other, train=4, val=1)
    (tmp_path / DETECTOR_TRAINING.file_name).write_bytes(stored)
    with pytest.raises(ConfigError, match="other data"):
        train_detector(brca(other), tmp_path, settings=TINY, resume=True)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"junk"])
def test_a_damaged_state_is_one_line(data, stored, damage, tmp_path):
    (tmp_path / DETECTOR_TRAINING.file_name).write_bytes(damage(stored))
    says = r"training\.safetensors: cannot be read .*no checkpoint of muse train-detector; remove it"
    with pytest.raises(ConfigError, match=says) as told:
        train_detector(brca(data), tmp_path, settings=TINY, resume=True)
    assert "\n" not in str(told.value)


def test_a_full_disk_is_one_line_and_leaves_the_old_state(data, stored, tmp_path):
    asked = iter([False, False, True])
    train_detector(brca(data), tmp_path, settings=TINY, should_stop=lambda: next(asked))
    half_way = (tmp_path / DETECTOR_TRAINING.file_name).read_bytes()
    # The settings fit, the state does not.
    says = r"training\.safetensors: no space left"
    with largest_file(len(stored) // 2), pytest.raises(OutputError, match=says) as told:
        train_detector(brca(data), tmp_path, settings=TINY, resume=True)
    assert told.value.reason == "disk_full"
    assert "\n" not in str(told.value)
    assert (tmp_path / DETECTOR_TRAINING.file_name).read_bytes() == half_way
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json", DETECTOR_TRAINING.file_name]
    assert train_detector(brca(data), tmp_path, settings=TINY, resume=True).weights.exists()


@pytest.mark.slow
def test_it_learns(data, tmp_path):
    settings = TINY.model_copy(
        update={
            "steps": 50,
            "batch_size": 4,
            "validate_every": 25,
            "average_steps": 5,
            "augment": AugmentSettings(empty_share=0),
        }
    )
    result = train_detector(brca(data), tmp_path, settings=settings)
    losses = json.loads((tmp_path / "training.json").read_text())["losses"]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    assert result.f1 > 0.4


def test_settings_refuse_what_makes_no_sense():
    with pytest.raises(ConfigError, match="side_px"):
        load_settings(TrainDetectorSettings, overrides=["side_px=100"])
    with pytest.raises(ConfigError, match="seed"):
        load_settings(TrainDetectorSettings, overrides=["seed=-1"])
    with pytest.raises(ConfigError, match=r"'augment\.blur'"):
        load_settings(TrainDetectorSettings, overrides=["augment.blur=1"])


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="brca_ds_train"):
        train_detector(brca(tmp_path), tmp_path / "out", settings=TINY)


@pytest.mark.slow
def test_datasets_count_alike_and_one_that_is_left_out_is_scored_all_the_same(data, tmp_path):
    """Of two sources one only validates; the record has both, and the score is their mean."""
    one = brca(data)
    (source,) = one.sources
    regions = tuple(replace(region, source="other") for region in source.validation)
    both = LabelledData(one.class_names, (source, Source("other", 2.0, (), regions)))
    result = train_detector(both, tmp_path / "both", settings=TINY)
    record = json.loads((tmp_path / "both" / "training.json").read_text())
    assert [(each["name"], each["n_train"], each["n_validation"]) for each in record["sources"]] == [
        (source.name, 3, 1),
        ("other", 0, 1),
    ]
    assert result.f1 == pytest.approx(np.mean([each["f1"] for each in record["sources"]]))
    with pytest.raises(DatasetError, match="0 images to train on, 2 to validate by; some of each needed"):
        train_detector(both.without([source.name]), tmp_path / "none", settings=TINY)


def test_nuclei_of_unknown_class_say_where(data, tmp_path):
    one = brca(data)
    (source,) = one.sources
    blind = tuple(replace(region, class_ids=np.full_like(region.class_ids, UNKNOWN_CLASS)) for region in source.train)
    nameless = LabelledData(one.class_names, (replace(source, train=blind),))
    kept = load_file(train_detector(nameless, tmp_path, settings=TINY).weights)
    named = load_file(train_detector(one, tmp_path / "named", settings=TINY).weights)
    assert not np.array_equal(kept["head.weight"][0], np.zeros_like(kept["head.weight"][0]))
    assert not np.array_equal(kept["head.weight"][1:], named["head.weight"][1:])


def test_a_run_can_start_from_another(data, tmp_path):
    first = train_detector(brca(data), tmp_path / "first", settings=TINY).weights
    still = TINY.model_copy(update={"steps": 1, "learning_rate": 1e-9})
    second = train_detector(brca(data), tmp_path / "second", settings=still, init=first).weights
    one, two = load_file(first), load_file(second)
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one if name.endswith("weight"))
    with pytest.raises(ConfigError, match="other data; give what it was begun with"):
        train_detector(brca(data), tmp_path / "second", settings=still, resume=True)
    with pytest.raises(ConfigError, match=r"--init .*none\.safetensors: cannot be read"):
        train_detector(brca(data), tmp_path / "third", settings=still, init=tmp_path / "none.safetensors")


def test_the_recipes_that_ship_load():
    recipes = sorted(Path(recipes_folder.__file__).parent.glob("recipes/*.toml"))
    assert [path.name for path in recipes] == ["nucleus-detector-first.toml", "nucleus-detector-last.toml"]
    assert load_settings(TrainDetectorSettings, recipes[0]).side_px == 256
    listed = read_datasets_file(Path(__file__).parents[2] / "data_manifests" / "many_organs.toml")
    assert [one.label for one in listed.dataset] == ["brca-m2c", "consep", "nuinsseg", "tnbc"]
    assert listed.classes == BRCA_CLASS_NAMES
