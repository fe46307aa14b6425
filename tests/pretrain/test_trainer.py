import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from muse_core.errors import ConfigError, DatasetError, TrainingError
from muse_core.models.backbone import build_backbone
from muse_core.models.backbone_file import load_backbone
from muse_core.pretrain.feed import Feed
from muse_core.pretrain.metrics import read_metrics
from muse_core.pretrain.settings import PretrainSettings
from muse_core.pretrain.trainer import pretrain
from muse_core.training.checkpoint import read_checkpoint
from tests.pretrain.tiny_runs import drawn_dataset, tiny
from tests.training.test_checkpoint import largest_file


def weights(out):
    """All of a finished run's state."""
    return read_checkpoint(out / "checkpoint.safetensors").tensors


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(rois, tmp_path_factory):
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    pretrain(rois, out, settings=tiny())
    return out


def test_a_run_leaves_backbone_card_curves_and_what_it_was_set_to(rois, tmp_path):
    seen = []
    result = pretrain(rois, tmp_path, settings=tiny(), on_progress=seen.append)
    assert [progress.step for progress in seen] == [2, 4, 6]
    assert (result.step, result.steps) == (6, 6)
    resolved = json.loads((tmp_path / "config.json").read_text())
    assert resolved.pop("resolved")["precision"] == "fp32"
    assert PretrainSettings.model_validate(resolved) == tiny()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["loss_image"] + rows[-1]["loss_nucleus"]) == result.loss
    assert 0 <= rows[-1]["data_wait_share"] <= 1
    assert rows[-1]["matched_global"] > 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = json.loads((tmp_path / "muse-backbone.json").read_text())
    assert (card["step"], card["n_rois"], card["epochs"]) == (6, 10, 3)
    backbone = load_backbone(result.backbone)
    assert sum(p.numel() for p in backbone.parameters()) == result.n_parameters
    stored = weights(tmp_path)
    for name, tensor in backbone.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, stored[f"teacher/backbone.{name}"])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(rois, whole, tmp_path):
    pretrain(rois, tmp_path / "a", settings=tiny())
    pretrain(rois, tmp_path / "b", settings=tiny("seed=1"))
    assert same(weights(whole), weights(tmp_path / "a"))
    assert not same(weights(whole), weights(tmp_path / "b"))


@pytest.mark.parametrize("stop_at", [1, 4])
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


def test_prototypes_stand_still_at_first(rois, tmp_path):
    pretrain(rois, tmp_path, settings=tiny("steps=2", "optimiser.freeze_last_layer=1"))
    state = weights(tmp_path)
    name = "nucleus_head.last_layer.directions"
    assert torch.equal(state[f"student/{name}"], state[f"teacher/{name}"])
    assert not any("last_layer" in name for name in state if name.startswith("optimiser/"))


def test_views_grow_by_phases(rois, tmp_path):
    phases = "phases=[{until=0.5, global_px=64, local_px=32}, {until=1, global_px=96, local_px=48, accumulate=2}]"
    wide = "views.global_mpp=[0.25, 0.4]"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(rois, whole, settings=tiny(phases, wide))
    asked = iter([False, False, True])
    pretrain(rois, cut, settings=tiny(phases, wide), should_stop=lambda: next(asked))
    pretrain(rois, cut, settings=tiny(phases, wide), resume=True)
    assert same(weights(whole), weights(cut))


def test_it_learns(rois, tmp_path):
    """Dots of seven colours: their features come to tell them apart while the teacher stays alive."""
    settings = tiny("steps=40", "batch_size=8", "run.log_every=10", "optimiser.momentum=0.9", "loss.lambda_image=0")
    pretrain(rois, tmp_path, settings=settings)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert min(row["loss_nucleus"] for row in rows) < 0.9 * np.log(32)
    assert rows[-1]["marginal_entropy_nucleus"] > 1
    assert rows[-1]["spread_nucleus"] > 0.05


def test_a_run_is_not_overwritten(rois, whole):
    before = (whole / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="go on with --resume"):
        pretrain(rois, whole, settings=tiny())
    with pytest.raises(ConfigError, match=r"made with loss\.lambda_nu = 1\.0 instead of 0\.5"):
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
    with pytest.raises(TrainingError, match=r"step [12]: L_image is .* with slides slide_0, slide_1") as error:
        pretrain(rois, tmp_path, settings=tiny("optimiser.learning_rate=1e30", "optimiser.clip=0"))
    assert error.value.reason == "loss_not_finite"


def test_a_dead_run_is_ended(rois, tmp_path):
    flat = ("loss.teacher_temperature=1e4", "loss.teacher_temperature_end=1e4", "loss.lambda_image=0")
    options = (*flat, "batch_size=8", "run.log_every=1")  # nuclei enough for a verdict
    with pytest.raises(TrainingError, match="nucleus teacher has collapsed, KL to uniform"):
        pretrain(rois, tmp_path, settings=tiny(*options))
