"""Which checkpoint is in use: bytes, scores and decisions; no network is needed to keep them."""

import json

import fsspec
import pytest

from muse_core.errors import ConfigError
from muse_core.ndc.registry import (
    Measure,
    ModelScore,
    add_scores,
    current_checkpoint,
    read_current,
    register_if_better,
    resolve_checkpoint,
)

VAL = Measure(dataset="brca-m2c", split="val", labels_id="abc", protocol="mcspatnet", radius_um=3.0)
FOLDS = VAL.model_copy(update={"split": "5 folds by case"})
GROWN = VAL.model_copy(update={"labels_id": "def"})


def score(value: float, measure: Measure = VAL) -> ModelScore:
    return ModelScore(measure=measure, mean_class_f1=value, detection_f1=0.8, class_f1={"stromal": None}, n_labels=9)


def weights(folder, text: str):
    path = folder / f"{text}.safetensors"
    path.write_bytes(text.encode() * 1000)
    return path


def test_better_is_taken_and_nothing_else(tmp_path):
    registry = tmp_path / "models"
    assert read_current(registry) is None
    first = register_if_better(registry, weights(tmp_path, "one"), (score(0.6),))
    assert (first.taken, first.in_use) == (True, None)
    for value, taken in ((0.5, False), (0.6, False), (0.61, True), (0.6, False)):
        decision = register_if_better(registry, weights(tmp_path, f"w{value}"), (score(value),))
        assert decision.taken is taken
        assert decision.in_use is not None
    current = read_current(registry)
    assert current is not None
    assert current == decision.current
    assert current.scores[0].mean_class_f1 == 0.61
    path = current_checkpoint(registry)
    assert path.read_bytes() == weights(tmp_path, "w0.61").read_bytes()
    assert path.name == f"ndc-{current.sha256[:12]}.safetensors"
    history = [json.loads(line) for line in (registry / "history.jsonl").read_text().splitlines()]
    assert [line["taken"] for line in history] == [True, False, False, True, False]
    assert "0.6000 is not above the 0.6100" in history[-1]["reason"]


def test_only_scores_of_one_measure_are_compared(tmp_path):
    registry = tmp_path / "models"
    register_if_better(registry, weights(tmp_path, "one"), (score(0.9),))
    with pytest.raises(ConfigError, match="measure it on"):
        register_if_better(registry, weights(tmp_path, "two"), (score(0.95, GROWN),))
    add_scores(registry, (score(0.7, GROWN),))
    assert register_if_better(registry, weights(tmp_path, "two"), (score(0.75, GROWN),)).taken
    assert [one.measure for one in read_current(registry).scores] == [GROWN]


def test_the_first_measure_in_common_decides(tmp_path):
    registry = tmp_path / "models"
    register_if_better(registry, weights(tmp_path, "one"), (score(0.6),))
    assert register_if_better(registry, weights(tmp_path, "two"), (score(0.5, FOLDS), score(0.7))).taken
    assert not register_if_better(registry, weights(tmp_path, "three"), (score(0.4, FOLDS), score(0.9))).taken


def test_a_folder_stands_for_what_is_in_use(tmp_path):
    registry, file = tmp_path / "models", weights(tmp_path, "one")
    assert resolve_checkpoint(None) is None
    assert resolve_checkpoint(file) == file
    with pytest.raises(ConfigError, match=r"without current\.json"):
        resolve_checkpoint(tmp_path)
    register_if_better(registry, file, (score(0.6),))
    (found,) = registry.glob("*.safetensors")
    assert resolve_checkpoint(registry) == found
    found.write_bytes(b"other")
    with pytest.raises(ConfigError, match="not the file that was registered"):
        resolve_checkpoint(registry)


@pytest.mark.parametrize("text", ["{", "[]", '{"checkpoint": "../x.safetensors"}'])
def test_a_damaged_record_is_one_clear_line(tmp_path, text):
    (tmp_path / "current.json").write_text(text)
    with pytest.raises(ConfigError, match="not a registry's"):
        read_current(tmp_path)


def test_only_safetensors_are_taken(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"x")
    for path in (tmp_path / "x.pt", tmp_path / "gone.safetensors"):
        with pytest.raises(ConfigError, match=r"no such file, or not \.safetensors"):
            register_if_better(tmp_path / "models", path, (score(0.6),))


def test_a_registry_that_is_gone_from_its_store_is_an_error_not_that_of_an_earlier_time(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSE_WORK", str(tmp_path / "work"))
    url = f"memory://{tmp_path.name}/models"
    store, registry = fsspec.filesystem("memory"), tmp_path / "models"
    register_if_better(registry, weights(tmp_path, "one"), (score(0.6),))
    for path in registry.iterdir():
        store.pipe_file(f"/{tmp_path.name}/models/{path.name}", path.read_bytes())
    assert resolve_checkpoint(url).read_bytes() == current_checkpoint(registry).read_bytes()
    store.rm(f"/{tmp_path.name}", recursive=True)
    with pytest.raises(ConfigError, match=r"without current\.json"):
        resolve_checkpoint(url)
