"""Fine-tuning whole, on drawn patches and with a network so small that a run takes seconds."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from muse_core.errors import ConfigError, OutputError, TrainingError
from muse_core.labels.regions import Region, regions_of, unlabelled_region
from muse_core.models.nucleus_model import NucleiFound
from muse_core.ndc import batch as batches
from muse_core.ndc import finetune as module
from muse_core.ndc import folds
from muse_core.ndc import run as train
from muse_core.ndc.checkpoint import load_checkpoint
from muse_core.ndc.data import published_data
from muse_core.ndc.finetune import finetune
from muse_core.ndc.finetune_data import FinetuneData
from muse_core.ndc.folds import case_folds, cross_validate
from muse_core.ndc.model import NdcModel
from muse_core.ndc.recipe import recipe_settings
from muse_core.training.checkpoint import FINETUNING
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import CLASS_NAMES, draw_patch, write_brca
from tests.ndc.tiny import TINY

# Those of `whole` are drawn all the same.
pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = TINY.model_copy(update={"steps": 4})


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    return str(write_random_ndc(tmp_path_factory.mktemp("init") / "start.safetensors"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=3, val=1, side_px=128, n_nuclei=8)
    tissue = [unlabelled_region("u", draw_patch(128, 8, 99).image, 0.5)]
    return published_data("brca-m2c", root, unlabelled=tissue)


@pytest.fixture(scope="module")
def whole(init, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, finetune(data, out, init=init, settings=TINY)


def test_a_run_leaves_checkpoint_record_settings_and_pictures(whole):
    out, result = whole
    record = json.loads((out / "training.json").read_text())
    assert [one["step"] for one in record["validations"]] == [4, 8, 12]
    losses = np.array(record["losses"])
    assert losses.shape == (12, 5)
    # In a step whose pictures are all immunostained no nucleus has a class.
    assert (losses >= 0).all()
    assert (losses > 0).any(axis=0).all(), "total, L_reg, L_type, L_cons and the dense task all take part"
    assert set(result.scores["protocols"]) >= {"mcspatnet", "ocelot", "dpa", "puma", "hovernet"}
    assert json.loads((out / "config.json").read_text())["steps"] == 12
    for name in ("curves.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    head = load_checkpoint(result.checkpoint).head
    assert head.class_names == CLASS_NAMES


def test_the_model_scores_half_where_validation_was_cut_best(whole, data):
    out, result = whole
    best = max(json.loads((out / "training.json").read_text())["validations"], key=lambda one: one["mean_class_f1"])
    assert load_checkpoint(result.checkpoint).head.calibration.heat_at_half == pytest.approx(best["cut"], abs=1e-6)
    image = data.validation[0].image[None]
    likely = NdcModel(result.checkpoint).candidates(image)[0]
    found = NdcModel(result.checkpoint, min_score=0.5).find(image)[0]
    assert np.array_equal(found.xy, likely.xy[: len(found.xy)])  # the surest first
    assert (likely.score[: len(found.xy)] > best["cut"] - 1e-5).all()
    assert (likely.score[len(found.xy) :] < best["cut"] + 1e-5).all()


@pytest.mark.slow
def test_the_papers_recipe_trains_proposals_alone_and_reads_them(init, tmp_path):
    paper = recipe_settings("paper")
    ramped = {"cons_start": 0, "cons_ramp": 0, "nucleus_confidence": 0.05, "background_confidence": 0.05}
    model, loss = paper.model.model_copy(update={"hidden": 8}), paper.loss.model_copy(update=ramped)
    short = {"steps": 4, "batch_size": 2, "side_px": 256, "validate_every": 4, "warmup_steps": 1, "threads": 1}
    settings = paper.model_copy(update={**short, "model": model, "loss": loss})
    image = draw_patch(384, 40, 0).image
    area = np.zeros((384, 384), bool)
    area[128:256, 128:256] = True
    xy = np.array([[140, 150], [200, 220], [250, 130]], np.float32)
    region = Region("r", "c", image, 0.5, area, xy, np.array([0, 1, 2]))
    data = FinetuneData(CLASS_NAMES, [region], [], [region])
    result = finetune(data, tmp_path, init=init, settings=settings)
    losses = np.array(json.loads((tmp_path / "training.json").read_text())["losses"])  # total, reg, type, cons, dense
    assert (losses[:, 1:4] > 0).all(), "L_reg and L_type within the area, L_cons outside"
    assert (losses[:, 4] == 0).all()
    assert load_checkpoint(result.checkpoint).head.readout == "proposals"
    start, end = load_file(init), load_file(result.checkpoint)
    dense = [name for name in start if name.startswith("h_dense") and "running" not in name]
    assert dense
    assert all(np.array_equal(start[name], end[name]) for name in dense), "the dense head learns nothing"
    assert not np.array_equal(start["h_reg.4.weight"], end["h_reg.4.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(init, data, tmp_path, dropout):
    settings = TINY.model_copy(update={"model": TINY.model.model_copy(update={"dropout": dropout})})

    def stop(progress):
        raise StoppedError

    undisturbed = finetune(data, tmp_path / "whole", init=init, settings=settings)
    with pytest.raises(StoppedError):  # at step 10; the last state is of step 8
        finetune(data, tmp_path / "stopped", init=init, settings=settings, on_progress=stop)
    assert not (tmp_path / "stopped" / "ndc.safetensors").exists()
    resumed = finetune(data, tmp_path / "stopped", init=init, settings=settings, resume=True)
    tensors = load_file(undisturbed.checkpoint), load_file(resumed.checkpoint)
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert load_checkpoint(undisturbed.checkpoint).head == load_checkpoint(resumed.checkpoint).head
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "stopped")]
    assert records[0]["losses"] == records[1]["losses"]
    assert records[0]["validations"] == records[1]["validations"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(whole, init, data, tmp_path):
    again = finetune(data, tmp_path / "again", init=init, settings=TINY)
    other = finetune(data, tmp_path / "other", init=init, settings=TINY.model_copy(update={"seed": 1}))
    first, second, third = (load_file(one.checkpoint) for one in (whole[1], again, other))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], third[name]) for name in first)


def test_asked_to_stop_it_saves_the_step_it_is_at_and_goes_on_as_if_it_had_not(whole, init, data, tmp_path):
    asked = iter([False] * 5 + [True])
    stopped = finetune(data, tmp_path, init=init, settings=TINY, should_stop=lambda: next(asked))
    assert (stopped.step, stopped.steps, stopped.scores) == (6, 12, {})
    assert not stopped.checkpoint.exists()
    resumed = finetune(data, tmp_path, init=init, settings=TINY, resume=True)
    assert resumed.step == 12
    tensors = load_file(whole[1].checkpoint), load_file(resumed.checkpoint)
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def darker(region):
    image = region.image.copy()
    image[:8] //= 2
    return replace(region, image=image)


def relabelled(region):
    return replace(region, class_ids=(region.class_ids + 1) % 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: {"settings": TINY.model_copy(update={"learning_rate": 1e-4})}, "learning_rate = 0.001 instead"),
        (lambda data: {"init": "none"}, "another --init"),
        (lambda data: {"data": replace(data, labelled=[*map(relabelled, data.labelled)])}, "other labels to train on"),
        (lambda data: {"data": replace(data, labelled=[*map(darker, data.labelled)])}, "other labels to train on"),
        (lambda data: {"data": replace(data, validation=data.labelled)}, "other labels to validate by"),
        (lambda data: {"data": replace(data, unlabelled=[*map(darker, data.unlabelled)])}, "other tissue"),
        (lambda data: {"data": replace(data, class_names=(*CLASS_NAMES, "mast cell"))}, "other classes"),
    ],
)
def test_going_on_with_anything_else_is_refused_and_leaves_the_run_alone(whole, init, data, change, told):
    before = {path.name: path.read_bytes() for path in whole[0].iterdir()}
    with pytest.raises(ConfigError, match=rf"training\.safetensors: of a run with .*{told}"):
        finetune(**({"data": data, "init": init, "settings": TINY} | change(data)), out=whole[0], resume=True)
    assert {path.name: path.read_bytes() for path in whole[0].iterdir()} == before


def test_the_same_start_under_another_name_is_the_same(whole, init, data, tmp_path):
    shutil.copy(init, tmp_path / "moved.safetensors")
    again = finetune(data, whole[0], init=str(tmp_path / "moved.safetensors"), settings=TINY, resume=True)
    assert again.scores == whole[1].scores


def test_a_run_is_not_begun_over_another(whole, init, data):
    before = (whole[0] / "ndc.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a run; go on with --resume, or give another --out"):
        finetune(data, whole[0], init=init, settings=SHORT)
    assert (whole[0] / "ndc.safetensors").read_bytes() == before
    assert json.loads((whole[0] / "config.json").read_text())["steps"] == 12


def test_two_runs_do_not_share_a_folder(init, data, tmp_path):
    def second(progress):
        finetune(data, tmp_path, init=init, settings=TINY, resume=True)

    with pytest.raises(OutputError, match="another run is writing here"):
        finetune(data, tmp_path, init=init, settings=TINY, on_progress=second)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_told(init, data, tmp_path, content):
    (tmp_path / FINETUNING.file_name).write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"training\.safetensors: cannot .* no checkpoint of muse finetune; remove it"
    ):
        finetune(data, tmp_path, init=init, settings=SHORT, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(init, data, tmp_path):
    settings = TINY.model_copy(update={"loss": TINY.loss.model_copy(update={"reg": 1e38})})
    with pytest.raises(TrainingError, match="not a number at step"):
        finetune(data, tmp_path, init=init, settings=settings)


def test_folds_part_no_case_and_cover_all():
    regions = [
        Region(f"r{i}", f"case{i // 3}", np.zeros((8, 8, 3), np.uint8), 0.5, None, np.zeros((0, 2)), np.zeros(0, int))
        for i in range(14)
    ]
    folds = case_folds(regions, 4)
    assert sorted(index for fold in folds for index in fold) == list(range(14))
    for fold in folds:
        inside = {regions[index].case for index in fold}
        outside = {region.case for index, region in enumerate(regions) if index not in fold}
        assert not inside & outside
    assert max(map(len, folds)) - min(map(len, folds)) <= 3
    with pytest.raises(ConfigError, match="--folds 6: needs 2 to 5, the number of cases"):
        case_folds(regions, 6)


@pytest.mark.slow
def test_cross_validation_judges_every_region_by_a_model_that_never_saw_it(init, data, tmp_path, monkeypatch):
    learned, judged = [], []  # names, a fold each

    def batch(labelled, *rest, **options):
        learned[-1].update(region.name for region in labelled)
        return real_batch(labelled, *rest, **options)

    def restart(*arguments, **options):
        learned.append(set())
        return real_run(*arguments, **options)

    def find(run, net, regions):
        if (names := [region.name for region in regions]) not in judged:  # on the way, and once more at the end
            judged.append(names)
        return real_find(run, net, regions)

    real_batch, real_run, real_find = batches.batch_of_step, module.FinetuneRun, train.FinetuneRun.found_by
    monkeypatch.setattr(batches, "batch_of_step", batch)
    monkeypatch.setattr(module, "FinetuneRun", restart)
    monkeypatch.setattr(real_run, "found_by", find)
    answer = cross_validate(data, tmp_path, folds=2, init=init, settings=SHORT)
    names = sorted(region.name for region in (*data.labelled, *data.validation))
    assert sorted(name for fold in judged for name in fold) == names
    for known, unseen in zip(learned, judged, strict=True):
        assert sorted([*known, *unseen]) == names, "all that is not judged is learned from, and nothing else"
    assert (answer["n_patches"], answer["n_labels"], len(answer["by_fold"])) == (len(names), 32, 2)
    assert json.loads((tmp_path / "folds.json").read_text()) == answer


def test_a_fold_s_answers_are_cut_by_the_other_folds_alone(tmp_path):
    """Scores of right points in one fold are those of false ones in the other: the best cut of each suits it alone."""
    region = Region("r", "r", np.zeros((99, 99, 3), np.uint8), 0.5, None, np.array([[20, 20]]), np.zeros(1, int))

    def fold(right, wrong):
        xy, score = np.array([[20, 20], [80, 80]], np.float32), np.array([right, wrong], np.float32)
        return folds._Fold([NucleiFound(xy, score, np.ones((2, 1), np.float32), None)], [region])

    answer = folds._judged_together([fold(0.8, 0.6), fold(0.4, 0.2)], ("N",), tmp_path)
    first, second = answer["by_fold"]
    assert 0.2 < first["cut"] <= 0.4, "where the second fold is best"
    assert 0.6 < second["cut"] <= 0.8
    assert first["mean_class_f1"] == pytest.approx(2 / 3), "the false point stays"
    assert second["mean_class_f1"] == 0, "the right one goes"


@pytest.mark.slow
def test_folds_of_another_number_are_other_runs(init, data, tmp_path):
    def steps(fold, progress):
        begun.append(fold)

    begun: list[int] = []
    options = {"init": init, "settings": SHORT, "on_progress": steps}
    three = cross_validate(data, tmp_path, folds=3, **options)
    two = cross_validate(data, tmp_path, folds=2, resume=True, **options)
    assert begun == [0, 1, 2, 0, 1]
    with pytest.raises(ConfigError, match="holds a cross-validation; go on with --resume"):
        cross_validate(data, tmp_path, folds=3, **options)
    assert cross_validate(data, tmp_path, folds=3, resume=True, **options) == three
    assert (len(begun), two["folds"]) == (5, 2)
    other = replace(data, labelled=[*map(relabelled, data.labelled)])
    with pytest.raises(ConfigError, match="of a run with other labels"):
        cross_validate(other, tmp_path, folds=2, resume=True, **options)


@pytest.mark.slow
def test_folds_stop_when_asked(init, data, tmp_path):
    asked = iter([False] * 5 + [True])
    assert cross_validate(data, tmp_path, folds=2, init=init, settings=SHORT, should_stop=lambda: next(asked)) is None
    assert not (tmp_path / "folds.json").exists()
    assert cross_validate(data, tmp_path, folds=2, init=init, settings=SHORT, resume=True)["folds"] == 2


@pytest.mark.slow
def test_learning_makes_the_loss_smaller(init, tmp_path):
    patches = regions_of([draw_patch(128, 10, seed) for seed in range(3)])
    data = FinetuneData(CLASS_NAMES, patches, [], patches[:1])
    settings = TINY.model_copy(update={"steps": 40, "validate_every": 40, "freeze_stages": 0})
    finetune(data, tmp_path, init=init, settings=settings)
    total = np.array(json.loads((tmp_path / "training.json").read_text())["losses"])[:, 0]
    assert total[-10:].mean() < 0.9 * total[:10].mean()


@pytest.mark.slow
def test_a_run_and_a_cross_validation_don_t_share_a_folder(init, data, tmp_path):
    finetune(data, tmp_path / "run", init=init, settings=SHORT)
    cross_validate(data, tmp_path / "folds", folds=2, init=init, settings=SHORT)
    with pytest.raises(ConfigError, match="run: holds a run without folds; give another --out"):
        cross_validate(data, tmp_path / "run", folds=2, init=init, settings=SHORT, resume=True)
    with pytest.raises(ConfigError, match="folds: holds a cross-validation; give another --out"):
        finetune(data, tmp_path / "folds", init=init, settings=SHORT)


def test_the_next_batch_is_drawn_ahead_and_its_errors_come_with_its_step(data, monkeypatch):
    def batch(labelled, unlabelled, step, settings, **options):
        drawn.append(step)
        if step == 2:
            raise ConfigError("step 2")
        return real_batch(labelled, unlabelled, step, settings, **options)

    drawn: list[int] = []
    real_batch = batches.batch_of_step
    monkeypatch.setattr(batches, "batch_of_step", batch)
    ahead = batches.BatchesAhead(data.labelled, data.unlabelled, SHORT)
    first, second = ahead.of_step(0), ahead.of_step(1)
    for step, found in enumerate((first, second)):
        expected = real_batch(data.labelled, data.unlabelled, step, SHORT)
        for one, other in zip(found.samples, expected.samples, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
    with pytest.raises(ConfigError, match="step 2"):
        ahead.of_step(2)
    assert drawn[:3] == [0, 1, 2]


@pytest.mark.slow
def test_the_network_can_be_its_own_teacher(init, data, tmp_path):
    data = replace(data, unlabelled=[unlabelled_region("tissue", data.labelled[0].image, 0.5)])
    losses = {}
    for teacher in ("average", "student"):
        settings = SHORT.model_copy(update={"loss": SHORT.loss.model_copy(update={"cons_teacher": teacher})})
        finetune(data, tmp_path / teacher, init=init, settings=settings)
        record = json.loads((tmp_path / teacher / "training.json").read_text())
        losses[teacher] = [row[record["parts"].index("cons")] for row in record["losses"]]
    assert losses["student"][1] > 0  # later a network that has learned nothing yet may be sure of nothing
    assert losses["student"] != losses["average"]


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does(init, data, tmp_path):
    settings = SHORT.model_copy(update={"loss": SHORT.loss.model_copy(update={"cons_start": 0.0, "cons_ramp": 0.0})})
    with_tissue = replace(data, unlabelled=[unlabelled_region("tissue", data.labelled[0].image, 0.5)])
    losses = {}
    for device in ("cpu", "cuda"):
        finetune(with_tissue, tmp_path / device, init=init, settings=settings, device=device)
        losses[device] = np.array(json.loads((tmp_path / device / "training.json").read_text())["losses"])
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0.1, atol=0.05)  # bfloat16, other kernels
    assert NdcModel(tmp_path / "cuda" / "ndc.safetensors", device="cuda").class_names == data.class_names
