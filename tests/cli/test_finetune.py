"""`muse finetune` and `muse evaluate ndc` as people type them, on drawn tissue and with a tiny network."""

import json
import os
import signal
import threading
import time

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.errors import ConfigError, DatasetError
from muse_core.evaluate.by_name import score_rows
from muse_core.labels.scores import NDC_RULES
from muse_core.ndc.checkpoint import load_checkpoint
from muse_core.ndc.promote import score_on_validation
from muse_core.ndc.registry import register_if_better
from tests.data.make_lab import box, point, write_csv, write_geojson, write_image, write_slide
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import CLASS_NAMES, draw_patch, write_brca
from tests.ndc.tiny import TINY, options

pytestmark = pytest.mark.usefixtures("no_pictures")


def muse(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    return write_random_ndc(tmp_path_factory.mktemp("init") / "start.safetensors")


@pytest.fixture(scope="module")
def brca(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=2, val=2, side_px=128, n_nuclei=8)
    return root


@pytest.fixture
def tiny(tmp_path):
    return options(TINY.model_copy(update={"steps": 3, "validate_every": 3}), tmp_path)


@pytest.mark.slow
def test_a_recipe_is_taken_by_its_name(init, brca, tiny, tmp_path):
    given = ("--dataset", "brca-m2c", "--data", brca, "--init", init, "--out", tmp_path / "out", *tiny)
    assert muse("finetune", *given, "--recipe", "paper", "--set", "loss.dense=0").exit_code == 0
    assert load_checkpoint(tmp_path / "out" / "ndc.safetensors").head.readout == "proposals"
    with pytest.raises(ConfigError, match="--recipe papr: none is called so"):
        muse("finetune", *given, "--recipe", "papr")


def test_from_labelled_patches_to_a_checkpoint_with_tissue_that_has_no_labels(init, brca, tiny, tmp_path):
    (tmp_path / "tissue" / "more").mkdir(parents=True)
    for seed in range(2):
        cv2.imwrite(str(tmp_path / "tissue" / "more" / f"{seed}.png"), draw_patch(96, 4, seed).image)
    tissue = ("--unlabelled", tmp_path / "tissue", "--unlabelled-mpp", 0.5)
    where = ("--dataset", "brca-m2c", "--data", brca, "--init", init)
    facts = last_line(muse("finetune", *where, *tissue, "--out", tmp_path / "out", *tiny, "--json"))
    assert facts["checkpoint"] == str(tmp_path / "out" / "ndc.safetensors")
    assert load_checkpoint(tmp_path / "out" / "ndc.safetensors").head.class_names == CLASS_NAMES
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["parts"][3] == "cons"
    assert all(losses[3] > 0 for losses in record["losses"])
    with pytest.raises(ConfigError, match=r"--unlabelled .*: images don't say their um/px; give --unlabelled-mpp"):
        muse("finetune", *where, "--unlabelled", tmp_path / "tissue", "--out", tmp_path / "out", *tiny)


@pytest.mark.parametrize("mpp", ["0", "-0.5", "nan", "100"])
def test_an_mpp_that_is_no_microscope_s(mpp, init, brca, tiny, tmp_path):
    cv2.imwrite(str(tmp_path / "tissue.png"), draw_patch(96, 4, 0).image)
    where = ("--dataset", "brca-m2c", "--data", brca, "--init", init, "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--unlabelled-mpp .*: 0.05 to 5 um/px needed"):
        muse("finetune", *where, "--unlabelled", tmp_path, f"--unlabelled-mpp={mpp}", *tiny)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["model.kernel=2", "model.spacing_px=64"])
def test_heads_that_don_t_fit(wrong, init, brca, tiny, tmp_path):
    where = ("--dataset", "brca-m2c", "--data", brca, "--init", init, "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].rpartition(".")[2]):
        muse("finetune", *where, *tiny, "--set", wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_folds(init, brca, tiny, tmp_path):
    where = ("--dataset", "brca-m2c", "--data", brca, "--init", init, "--out", tmp_path / "out")
    facts = last_line(muse("finetune", *where, "--folds", 2, *tiny, "--json"))
    assert (facts["folds"], facts["n_patches"], len(facts["by_fold"])) == (2, 4, 2)
    with pytest.raises(ConfigError, match="holds a cross-validation; go on with --resume"):
        muse("finetune", *where, "--folds", 2, *tiny)
    assert last_line(muse("finetune", *where, "--folds", 2, "--resume", *tiny, "--json")) == facts


@pytest.mark.slow
def test_a_polite_kill_saves_the_state(init, brca, tmp_path):
    out = tmp_path / "out"

    def kill() -> None:
        end = time.monotonic() + 100
        while not (out / "config.json").exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    endless = options(TINY.model_copy(update={"steps": 10_000, "validate_every": 10_000}), tmp_path)
    where = ("--dataset", "brca-m2c", "--data", brca, "--init", init, "--out", out)
    stopped = muse("finetune", *where, *endless, "--json")
    killer.join()
    assert stopped.exit_code == 130
    facts = last_line(stopped)
    assert (facts["done"], facts["steps"]) == (False, 10_000)
    assert facts["step"] > 0
    with safe_open(out / "training.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"])["step"] == facts["step"]


def test_scores_by_all_rules_side_by_side(init, brca, tmp_path):
    where = ("--dataset", "brca-m2c", "--data", brca, "--checkpoint", init, "--min-score", 0)
    shown = muse("evaluate", "ndc", *where, "--protocol", "all", "--picture", tmp_path / "p.png", "--json")
    facts = last_line(shown)
    assert list(facts["protocols"]) == list(NDC_RULES)
    assert all(rule in shown.stdout for rule in NDC_RULES)
    assert [facts[key] for key in ("task", "dataset", "split", "protocol")] == ["ndc", "brca-m2c", "val", "mcspatnet"]
    assert [facts[key] for key in ("radius_um", "n_patches", "n_labels")] == [3.0, 2, 16]
    for scores in facts["protocols"].values():
        assert set(scores["classes"]) == set(CLASS_NAMES)
        for place in (scores["detection"], *scores["classes"].values()):
            assert set(place) == {"f1", "precision", "recall", "f1_interval"}
            low, high = place["f1_interval"]
            assert low is None or low <= place["f1"] <= high
        assert scores["per_image"]["detection"]["f1"] >= 0
        assert len(scores["mean_class_f1_interval"]) == 2
    assert cv2.imread(str(tmp_path / "p.png")).shape[0] > 3 * 128


@pytest.mark.parametrize("rule", ["puma", "cellvit"])
def test_scores_by_one_rule(init, brca, rule):
    where = ("--dataset", "brca-m2c", "--data", brca, "--checkpoint", init)
    facts = last_line(muse("evaluate", "ndc", *where, "--protocol", rule, "--json"))
    assert (list(facts["protocols"]), facts["protocol"]) == ([rule], rule)
    assert facts["mean_class_f1"] == facts["protocols"][rule]["mean_class_f1"]


@pytest.mark.slow
def test_the_checkpoint_in_use_of_a_registry_is_scored(init, brca, tmp_path):
    score = score_on_validation(init, "brca-m2c", brca, settings=TINY)
    in_use = register_if_better(tmp_path / "models", init, (score,)).current.checkpoint
    where = ("--dataset", "brca-m2c", "--data", brca)
    facts = last_line(muse("evaluate", "ndc", *where, "--checkpoint", tmp_path / "models", "--json"))
    assert facts["checkpoint"] == str(tmp_path / "models" / in_use)
    assert facts["mean_class_f1"] == pytest.approx(score.mean_class_f1)
    with pytest.raises(ConfigError, match=r"a folder without current\.json; give a file, or a registry's folder"):
        muse("evaluate", "ndc", *where, "--checkpoint", brca)


def test_names_that_are_unknown(init, brca, tmp_path):
    where = ("--data", brca, "--checkpoint", init)
    with pytest.raises(ConfigError, match="--protocol f1: needs all or one of mcspatnet, ocelot"):  # before any work
        muse("evaluate", "ndc", "--dataset", "brca-m2c", "--data", tmp_path / "gone", "--protocol", "f1")
    with pytest.raises(ConfigError, match="dataset 'brca' is unknown"):
        muse("evaluate", "ndc", "--dataset", "brca", *where)
    other = write_random_ndc(tmp_path / "other.safetensors", class_names=("mast cell",))
    with pytest.raises(ConfigError, match="model of classes mast cell: none is one of the labels'"):
        muse("evaluate", "ndc", "--dataset", "brca-m2c", "--data", brca, "--checkpoint", other)


def test_classes_that_the_model_does_not_know_have_no_score_and_leave_no_mean(brca, tmp_path):
    known = ("lymphocyte", "plasma cell")
    checkpoint = write_random_ndc(tmp_path / "a.safetensors", class_names=known)
    where = ("--dataset", "brca-m2c", "--data", brca, "--checkpoint", checkpoint, "--min-score", 0)
    shown = muse("evaluate", "ndc", *where, "--json")
    assert "but not tumour_epithelial, stromal: these have no score" in shown.stdout
    facts = last_line(shown)
    assert (facts["unknown_classes"], facts["mean_class_f1"]) == (["tumour_epithelial", "stromal"], None)
    for scores in facts["protocols"].values():
        assert (scores["mean_class_f1"], scores["mean_class_f1_interval"]) == (None, [None, None])
        assert scores["per_image"]["mean_class_f1"] is None
        assert scores["classes"]["stromal"] == {
            "f1": None,
            "precision": None,
            "recall": None,
            "f1_interval": [None] * 2,
        }
        assert scores["detection"]["f1"] is not None
    assert facts["protocols"]["mcspatnet"]["classes"]["lymphocyte"]["f1"] is not None
    row = score_rows(facts)[0]
    assert (row["measured"], len(score_rows(facts))) == ("detection F1 (mcspatnet)", 1)


@pytest.mark.slow
def test_a_labs_twenty_dots_and_a_slide_to_a_checkpoint_to_the_slides_nuclei(init, tiny, tmp_path):
    nuclei = write_slide(tmp_path / "dots", "S1")
    middle = nuclei[np.argsort(np.linalg.norm(nuclei - (800, 600), axis=1))[:20]]
    features = [point(*xy, "Left" if xy[0] < 800 else "Right") for xy in middle.tolist()]
    write_geojson(tmp_path / "dots", "S1", [*features, box(*(middle.min(0) - 8), *(middle.max(0) + 8))])
    where = ("--dataset", "lab", "--data", tmp_path / "dots", "--init", init)
    facts = last_line(muse("finetune", *where, "--out", tmp_path / "out", *tiny, "--json"))
    assert (facts["n_labels"], set(facts["protocols"]["dpa"]["classes"])) == (20, {"Left", "Right"})
    slides = ("--slides", tmp_path / "dots" / "images", "--checkpoint", facts["checkpoint"])
    # A dozen steps make sure of nothing yet.
    found = last_line(muse("infer", *slides, "--out", tmp_path / "nuclei", "--set", "min_score=0", "--json"))
    assert (found["slides_done"], found["slides_failed"]) == (1, 0)
    assert found["n_nuclei"] > 0


def test_mistakes_in_a_labs_folder_stop_before_training(init, tiny, tmp_path):
    write_image(tmp_path / "dots", "a")
    write_csv(tmp_path / "dots", "a", [(20, 30, "T"), (900, 30, "T")])
    where = ("--dataset", "lab", "--data", tmp_path / "dots", "--init", init, "--out", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"a\.csv, row 3: dot \(900, 30\) outside the 300x200 px of a\.png"):
        muse("finetune", *where, *tiny)
    write_csv(tmp_path / "dots", "a", [(20, 30, "T")])
    (tmp_path / "dots" / "dataset.toml").write_text('mpp = 0.5\nval = ["a"]\n')
    with pytest.raises(DatasetError, match="no dot is left to train on"):
        muse("finetune", *where, *tiny)
    assert not (tmp_path / "out" / "ndc.safetensors").exists()
