import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from muse_core.errors import ConfigError, DatasetError, TrainingError, WorkersLostError
from muse_core.models.backbone import build_backbone
from muse_core.models.backbone_file import load_backbone
from muse_core.pretrain import run as run_module
from muse_core.pretrain.feed import Feed
from muse_core.pretrain.metrics import read_metrics
from muse_core.pretrain.optimiser import StudentOptimiser
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.trainer import pretrain
from muse_core.pretrain.views.loader import ViewLoader
from muse_core.training.checkpoint import read_checkpoint
from tests.pretrain.tiny_runs import drawn_dataset, tiny
from tests.pretrain.views.drawn_rois import roi_row, write_dataset
from tests.training.test_checkpoint import largest_file

pytestmark = pytest.mark.usefixtures("no_pictures")  # of one run they are drawn


def weights(out):
    """All of a finished run's state."""
    return read_checkpoint(out / "checkpoint.safetensors").tensors


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(rois, tmp_path_factory):
    """A run's folder, its result, and what it told on the way."""
    out, seen = tmp_path_factory.mktemp("whole"), []
    return out, pretrain(rois, out, settings=tiny(), on_progress=seen.append), seen


@pytest.fixture(scope="module")
def whole(undisturbed):
    """The folder of an undisturbed run."""
    return undisturbed[0]


def test_a_run_leaves_backbone_card_curves_and_what_it_was_set_to(undisturbed):
    out, result, seen = undisturbed
    assert [progress.step for progress in seen] == [2, 4, 6]
    assert (result.step, result.steps) == (6, 6)
    resolved = json.loads((out / "config.json").read_text())
    assert resolved.pop("resolved")["precision"] == "fp32"
    assert PretrainSettings.model_validate(resolved) == tiny()
    rows = read_metrics(out / "metrics.jsonl")
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["loss_image"] + rows[-1]["loss_nucleus"]) == result.loss
    assert 0 <= rows[-1]["data_wait_share"] <= 1
    assert rows[-1]["matched_global"] > 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = json.loads((out / "muse-backbone.json").read_text())
    assert (card["step"], card["n_rois"], card["epochs"]) == (6, 10, 3)
    backbone = load_backbone(result.backbone)
    assert sum(p.numel() for p in backbone.parameters()) == result.n_parameters
    stored = weights(out)
    for name, tensor in backbone.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, stored[f"teacher/backbone.{name}"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(rois, whole, tmp_path):
    pretrain(rois, tmp_path / "a", settings=tiny())
    pretrain(rois, tmp_path / "b", settings=tiny("seed=1"))
    assert same(weights(whole), weights(tmp_path / "a"))
    assert not same(weights(whole), weights(tmp_path / "b"))


@pytest.mark.parametrize("stop_at", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_bit_for_bit(rois, whole, tmp_path, stop_at):
    asked = iter([False] * (stop_at - 1) + [True])
    cut = pretrain(rois, tmp_path, settings=tiny(), should_stop=lambda: next(asked))
    assert cut.step == stop_at
    assert load_backbone(cut.backbone).map_channels > 0
    # With worker processes this time: who cuts the views changes nothing.
    pretrain(rois, tmp_path, settings=tiny("run.workers=1", "run.log_every=1"), resume=True)
    assert same(weights(whole), weights(tmp_path))


def test_the_teacher_follows_and_keeps_statistics_of_its_own(rois, tmp_path):
    pretrain(rois, tmp_path, settings=tiny("steps=1", "optimiser.warmup=0", "optimiser.momentum=0.9"))
    state = weights(tmp_path)
    torch.manual_seed(0)
    first = build_backbone(tiny().backbone).state_dict()
    name = "decoder.decoder1.first_block.layer.0.weight"
    student, teacher = (state[f"{who}/backbone.{name}"] for who in ("student", "teacher"))
    torch.testing.assert_close(teacher, 0.9 * first[name] + 0.1 * student)
    name = "decoder.decoder1.first_block.layer.1.running_mean"
    student, teacher = (state[f"{who}/backbone.{name}"] for who in ("student", "teacher"))
    assert not torch.equal(teacher, first[name])
    assert not torch.equal(teacher, student)  # the student saw local views as well


@pytest.mark.slow
def test_micro_batches_make_the_same_step(rois, tmp_path):
    """Nuclei are counted over the whole step: a mean of the micro-batches' means would differ."""
    options = ("steps=2", "batch_norm=frozen", "optimiser.learning_rate=0.01", "run.log_every=1")
    pretrain(rois, tmp_path / "one", settings=tiny(*options))
    pretrain(rois, tmp_path / "four", settings=tiny(*options, "accumulate=4"))
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "four")]
    for one, four in zip(*rows, strict=True):
        assert [four["loss_image"], four["loss_nucleus"]] == pytest.approx(
            [one["loss_image"], one["loss_nucleus"]], rel=1e-4
        )
    one, four = (weights(tmp_path / name) for name in ("one", "four"))
    for name in one:
        if name.startswith("centre"):
            torch.testing.assert_close(four[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "left_out"),
    [
        ("loss.lambda_image=0", "image_head"),
        ("loss.lambda_nu=0", "nucleus_head"),
        ("loss.nulo_student_views=global", None),
        ("views.local_views=0", None),
        ("backbone.decoder=false", "decoder"),
        ("backbone.hybrid=false", None),
        ("optimiser.freeze_last_layer=1", None),
        ("loss.chunk_rows=5", None),
        ("precision=bf16", None),
        ("backbone={preset='test_vit', image_px=64, imagenet=false, drop_path=0.1}", None),
    ],
)
def test_switches(rois, tmp_path, override, left_out):
    pretrain(rois, tmp_path, settings=tiny("steps=2", override))
    names = [name for name in weights(tmp_path) if name.startswith("student/")]
    assert left_out is None or not any(left_out in name for name in names)
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert (row["loss_nucleus"] is None) == (left_out == "nucleus_head")
    assert (row["loss_image"] is None) == (left_out == "image_head")


@pytest.mark.slow
def test_prototypes_stand_still_at_first(rois, tmp_path):
    pretrain(rois, tmp_path, settings=tiny("steps=2", "optimiser.freeze_last_layer=1"))
    state = weights(tmp_path)
    name = "nucleus_head.last_layer.directions"
    assert torch.equal(state[f"student/{name}"], state[f"teacher/{name}"])
    assert not any("last_layer" in name for name in state if name.startswith("optimiser/"))


@pytest.mark.slow
def test_views_grow_by_phases(rois, tmp_path):
    phases = "phases=[{until=0.5, global_px=64, local_px=32}, {until=1, global_px=96, local_px=48, accumulate=2}]"
    wide = "views.global_mpp=[0.25, 0.4]"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(rois, whole, settings=tiny(phases, wide))
    asked = iter([False, False, True])
    pretrain(rois, cut, settings=tiny(phases, wide), should_stop=lambda: next(asked))
    pretrain(rois, cut, settings=tiny(phases, wide), resume=True)
    assert same(weights(whole), weights(cut))


@pytest.mark.slow
def test_it_learns(rois, tmp_path):
    """Dots of seven colours: their features come to tell them apart while the teacher stays alive."""
    settings = tiny("steps=40", "batch_size=8", "run.log_every=10", "optimiser.momentum=0.9", "loss.lambda_image=0")
    pretrain(rois, tmp_path, settings=settings)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert min(row["loss_nucleus"] for row in rows) < 0.9 * np.log(32)
    assert rows[-1]["marginal_entropy_nucleus"] > 1
    assert rows[-1]["spread_nucleus"] > 0.02, "what the watch calls collapsed; so short a run hangs on its draws"


def test_a_run_is_not_overwritten(rois, whole):
    before = (whole / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="go on with --resume"):
        pretrain(rois, whole, settings=tiny())
    with pytest.raises(ConfigError, match=r"other settings \(loss\.lambda_nu = 1\.0 instead of 0\.5"):
        pretrain(rois, whole, settings=tiny("loss.lambda_nu=0.5"), resume=True)
    assert (whole / "checkpoint.safetensors").read_bytes() == before


def test_a_finished_run_that_is_resumed_stays_as_it_is(rois, whole):
    before = weights(whole)
    result = pretrain(rois, whole, settings=tiny(), resume=True)
    assert result.step == result.steps
    assert same(before, weights(whole))


def test_a_checkpoint_of_another_dataset(whole, tmp_path):
    other = drawn_dataset(tmp_path, count=11)
    with pytest.raises(ConfigError, match="made with dataset"):
        pretrain(other, whole, settings=tiny(), resume=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(rois, tmp_path):
    asked = iter([True])
    pretrain(rois, tmp_path, settings=tiny(), should_stop=lambda: next(asked))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with largest_file(1 << 17), pytest.raises(OSError, match="no space left"):
        pretrain(rois, tmp_path, settings=tiny(), resume=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert load_file(tmp_path / "muse-backbone.safetensors")


def test_a_dataset_without_nuclei_is_one_line_and_makes_no_folder_s_content(tmp_path):
    empty = drawn_dataset(tmp_path / "rois", nuclei=False)
    with pytest.raises(DatasetError, match="none of the 10 ROIs has nuclei"):
        pretrain(empty, tmp_path / "out", settings=tiny())
    assert not [path for path in (tmp_path / "out").glob("*") if path.name != ".lock"]


def test_images_alone_are_learned_from_without_nuclei(tmp_path):
    empty = drawn_dataset(tmp_path / "rois", nuclei=False)
    result = pretrain(empty, tmp_path / "out", settings=tiny("loss.lambda_nu=0", "steps=2"))
    assert result.step == 2
    (row,) = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert row["loss"] == row["loss_image"] > 0
    assert row["loss_nucleus"] is None


def test_the_time_of_a_run_holds_the_cutting_of_views(rois, tmp_path, monkeypatch):
    cut = Feed.next_step

    def cut_slowly(feed, progress):
        time.sleep(1.5)
        return cut(feed, progress)

    monkeypatch.setattr(Feed, "next_step", cut_slowly)
    result = pretrain(rois, tmp_path, settings=tiny("steps=1", "run.log_every=1"))
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert result.seconds == row["seconds"] >= 1.5


def test_rois_too_small_for_a_view(rois, tmp_path):
    with pytest.raises(DatasetError, match="a global view of 224 px"):
        pretrain(rois, tmp_path, settings=tiny("views.global_px=224"))


def test_a_batch_that_cannot_be_divided(rois, tmp_path):
    with pytest.raises(ConfigError, match="batch_size 4 is not divided by 1 processes x 3"):
        pretrain(rois, tmp_path, settings=tiny("accumulate=3"))


def test_a_loss_that_is_no_number_names_step_and_slides(rois, tmp_path):
    wild = ("optimiser.learning_rate=1e30", "optimiser.clip=0", "run.most_skipped=1")
    with pytest.raises(TrainingError, match=r"step [23]: L_image is .* with slides slide_0, slide_1.*2 steps in a row"):
        pretrain(rois, tmp_path, settings=tiny(*wild))


def poisoned(steps):
    """An optimiser whose gradients hold a NaN in some steps."""

    class Poisoned(StudentOptimiser):
        asked = 0

        def gradient_norm(self):
            if Poisoned.asked in steps:
                next(iter(self.names)).grad.view(-1)[0] = torch.nan
            Poisoned.asked += 1
            return super().gradient_norm()

    return Poisoned


@pytest.mark.slow
def test_a_step_whose_gradients_are_not_finite_leaves_everything_as_it_was(rois, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "StudentOptimiser", poisoned({1}))
    asked = iter([False, True])
    pretrain(rois, tmp_path / "two", settings=tiny("run.log_every=1"), should_stop=lambda: next(asked))
    monkeypatch.setattr(run_module, "StudentOptimiser", StudentOptimiser)
    pretrain(rois, tmp_path / "one", settings=tiny("run.log_every=1"), should_stop=lambda: True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert same(
        {name: tensor for name, tensor in one.items() if tensor.is_floating_point()},
        {name: two[name] for name in one if one[name].is_floating_point()},
    )
    rows = read_metrics(tmp_path / "two" / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows] == [0, 1]
    assert rows[0]["gradient_norm"] > 0
    assert rows[1]["gradient_norm"] is rows[1]["loss"] is None


@pytest.mark.slow
def test_many_such_steps_in_a_row_end_the_run_and_the_checkpoint_stands(rois, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "StudentOptimiser", poisoned(range(2, 99)))
    with pytest.raises(TrainingError, match="3 steps in a row were skipped") as error:
        pretrain(rois, tmp_path, settings=tiny("steps=20", "run.most_skipped=2", "run.checkpoint_minutes=0"))
    assert error.value.reason == "loss_not_finite"
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


@pytest.mark.slow
def test_older_checkpoints_and_a_teacher_an_epoch_are_kept(rois, tmp_path):
    settings = tiny("run.checkpoint_minutes=0", "run.keep_checkpoints=3", "run.keep_teachers=1")
    pretrain(rois, tmp_path, settings=settings)
    kept = {path.name: read_checkpoint(path).about["step"] for path in tmp_path.glob("checkpoint*")}
    assert kept == {"checkpoint.safetensors": 6, "checkpoint-1.safetensors": 5, "checkpoint-2.safetensors": 4}
    assert sorted(path.name for path in (tmp_path / "teachers").iterdir()) == ["epoch-0001", "epoch-0002", "epoch-0003"]
    assert load_backbone(tmp_path / "teachers" / "epoch-0002" / "muse-backbone.safetensors").map_channels > 0


@pytest.mark.slow
def test_a_run_starts_from_a_finished_one(rois, whole, tmp_path):
    first = whole / "muse-backbone.safetensors"
    still = ("optimiser.learning_rate=1e-12", "optimiser.final_learning_rate=0", "optimiser.weight_decay=0", "steps=1")
    pretrain(rois, tmp_path / "on", settings=tiny(f"backbone.init={first}", *still))
    found, before = load_backbone(tmp_path / "on" / "muse-backbone.safetensors"), load_backbone(first)
    for name, parameter in found.named_parameters():
        assert torch.allclose(parameter, before.get_parameter(name), atol=1e-6), name
    with pytest.raises(ConfigError, match=r"backbone\.init .*backbone\.hybrid is True there and False here"):
        pretrain(rois, tmp_path / "other", settings=tiny(f"backbone.init={first}", "backbone.hybrid=false"))
    with pytest.raises(ConfigError, match="give an existing file"):
        pretrain(rois, tmp_path / "none", settings=tiny(f"backbone.init={tmp_path / 'gone'}"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_with_the_one_before_it(rois, tmp_path):
    pretrain(rois, tmp_path, settings=tiny("run.checkpoint_minutes=0"))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match=r"checkpoint-1\.safetensors is the one before it"):
        pretrain(rois, tmp_path, settings=tiny(), resume=True)


@pytest.mark.slow
def test_a_damaged_roi_is_left_out_and_named(tmp_path):
    rows = [roi_row(number, image=b"II*\0 no image" if number == 2 else None) for number in range(10)]
    rois = write_dataset(tmp_path / "rois", rows)
    pretrain(rois, tmp_path / "out", settings=tiny("run.log_every=1"))
    card = json.loads((tmp_path / "out" / "muse-backbone.json").read_text())
    assert card["rois_left_out"] == ["ROI 2 of the dataset"]
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")[-1]["rois_left_out"] == 1


@pytest.mark.slow
def test_lost_loader_workers_are_started_again(rois, whole, tmp_path, monkeypatch):
    taken = []

    def lose_one(self, epoch, start_roi=0):
        taken.append(start_roi)
        if len(taken) == 2:
            raise WorkersLostError("a loader worker was killed")
        yield from original(self, epoch, start_roi)

    original = ViewLoader.batches
    monkeypatch.setattr(ViewLoader, "batches", lose_one)
    pretrain(rois, tmp_path, settings=tiny())
    assert same(weights(whole), weights(tmp_path))
    assert len(taken) > 2


@pytest.mark.slow
def test_a_dataset_that_changed_is_gone_on_with_by_an_explicit_word(rois, tmp_path):
    asked = iter([False, True])
    pretrain(rois, tmp_path / "out", settings=tiny(), should_stop=lambda: next(asked))
    fewer = drawn_dataset(tmp_path / "fewer", count=8)
    with pytest.raises(ConfigError, match=r"run\.changed_dataset=true"):
        pretrain(fewer, tmp_path / "out", settings=tiny(), resume=True)
    result = pretrain(fewer, tmp_path / "out", settings=tiny("run.changed_dataset=true"), resume=True)
    assert result.step == result.steps


def test_a_step_that_does_not_fit_into_memory_is_one_line_with_the_setting(rois, tmp_path, monkeypatch):
    def out_of_memory(run, batches):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(run_module.PretrainRun, "_learn", out_of_memory)
    expected = r"step 0: 2 ROIs at once do not fit into the memory of cpu; set accumulate=4 .* or lower batch_size"
    with pytest.raises(TrainingError, match=expected) as caught:
        pretrain(rois, tmp_path / "out", settings=tiny("accumulate=2"))
    assert caught.value.reason == "out_of_memory"


@pytest.mark.slow
def test_a_dead_run_is_ended(rois, tmp_path):
    flat = ("loss.teacher_temperature=1e4", "loss.teacher_temperature_end=1e4", "loss.lambda_image=0")
    options = (*flat, "batch_size=8", "run.log_every=1")  # nuclei enough for a verdict
    with pytest.raises(TrainingError, match="nucleus teacher has collapsed, KL to uniform"):
        pretrain(rois, tmp_path, settings=tiny(*options))
