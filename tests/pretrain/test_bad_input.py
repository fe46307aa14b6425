"""What `muse pretrain` says of bad input: one clear line, and nothing that was there before is overwritten."""

import pickle
import shutil

import pytest
import torch
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.errors import ConfigError, MuseError, TrainingError
from muse_core.training.checkpoint import read_checkpoint
from tests.pretrain.tiny_runs import arguments, drawn_dataset
from tests.training.test_checkpoint import Payload, largest_file


def told(rois, out, *overrides, resume=False):
    """The error that the command ends with: `muse` writes it as one line, status 2 for a ConfigError, else 1."""
    words = ["pretrain", "--rois", str(rois), "--out", str(out), "--device", "cpu", *arguments(*overrides)]
    done = CliRunner().invoke(app, words + ["--resume"] * resume)
    assert isinstance(done.exception, MuseError), done.output
    assert "\n" not in str(done.exception)
    return done.exception


def contents(folder):
    """Files by name, temporary ones too; the lock is no content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def begun(rois, tmp_path_factory):
    """A run that was stopped after its first step."""
    from muse_core.pretrain.trainer import pretrain
    from tests.pretrain.tiny_runs import tiny

    out = tmp_path_factory.mktemp("begun")
    assert pretrain(rois, out, settings=tiny(), should_stop=lambda: True).step == 1
    return out


@pytest.fixture
def copied(begun, tmp_path):
    """A copy of it that a test may spoil."""
    return shutil.copytree(begun, tmp_path / "run")


def test_datasets_that_cannot_be_used_leave_nothing_behind(rois, tmp_path):
    without = drawn_dataset(tmp_path / "without", nuclei=False)
    for dataset, override, words in (
        (without, "seed=0", "none of the 10 ROIs has nuclei"),
        (rois, "views.global_px=224", "160 x 160 px at 0.25 µm/px; a global view of 224 px at 0.25 µm/px needs 224 px"),
        (rois, "batch_size=16", "holds 10 ROIs, one step needs 16"),
        (tmp_path / "nowhere", "seed=0", "nowhere"),
    ):
        assert words in str(told(dataset, tmp_path / "out", override))
        assert not contents(tmp_path / "out")


def test_a_misspelt_key_in_a_config_is_named_with_its_neighbours(rois, tmp_path):
    config = tmp_path / "recipe.toml"
    config.write_text("[loss]\nlambda_nuclei = 1.0\n")
    words = ["pretrain", "--rois", str(rois), "--out", str(tmp_path / "out"), "--config", str(config)]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, ConfigError)
    assert "unknown key 'loss.lambda_nuclei'" in str(error)
    assert "lambda_nu" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_run_in_the_folder_is_not_begun_anew(rois, begun):
    before = contents(begun)
    assert "holds a run; go on with --resume" in str(told(rois, begun))
    assert contents(begun) == before


@pytest.mark.parametrize("stored", ["payload", "torch payload", "cut short", "backbone", "text"])
def test_a_checkpoint_that_is_none_is_told_never_run_and_stays(rois, copied, stored):
    path = copied / "checkpoint.safetensors"
    if stored == "payload":
        path.write_bytes(pickle.dumps(Payload()))
    elif stored == "torch payload":
        torch.save({"teacher": Payload()}, path)
    elif stored == "backbone":
        shutil.copy(copied / "muse-backbone.safetensors", path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if stored == "cut short" else b"hello")
    before = contents(copied)
    error = told(rois, copied, resume=True)
    assert isinstance(error, ConfigError)
    wrong = "format 'muse-backbone-1' found" if stored == "backbone" else "no checkpoint of muse pretrain"
    assert wrong in str(error)
    assert contents(copied) == before


def test_a_checkpoint_of_another_model_or_recipe_is_told_and_stays(rois, copied):
    before = contents(copied)
    error = told(rois, copied, "backbone.preset=nano", resume=True)
    assert "other settings (backbone.preset = test_efficientnet instead of nano)" in str(error)
    assert "nucleus_head.prototypes = 32 instead of 33" in str(
        told(rois, copied, "nucleus_head.prototypes=33", resume=True)
    )
    assert contents(copied) == before


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_and_backbone(rois, copied):
    before = contents(copied)
    with largest_file(1 << 17):
        error = told(rois, copied, resume=True)
    assert error.reason == "disk_full"
    assert "no space left on the disk" in str(error)
    after = contents(copied)
    for name in ("checkpoint.safetensors", "muse-backbone.safetensors", "muse-backbone.json"):
        assert after[name] == before[name]
    assert not [name for name in after if name.endswith(".tmp")]


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(rois, tmp_path):
    """Step 1's checkpoint is made before the second step goes wrong; its step and slides are told."""
    error = told(
        rois,
        tmp_path,
        "optimiser.learning_rate=1e30",
        "optimiser.clip=0",
        "run.checkpoint_minutes=0",
        "run.most_skipped=1",
    )
    assert isinstance(error, TrainingError)
    assert error.reason == "loss_not_finite"
    assert "with slides slide_0, slide_1" in str(error)
    assert str(error).startswith(f"step {read_checkpoint(tmp_path / 'checkpoint.safetensors').about['step']}: ")
