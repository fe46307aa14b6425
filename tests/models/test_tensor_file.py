"""Tensors in files, and disks that are full."""

import pytest
import torch
from safetensors.torch import load_file

from muse_core.errors import OutputError
from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.models.backbone_file import save_backbone
from muse_core.models.tensor_file import save_tensors
from tests.data.make_ndc import write_random_ndc
from tests.data.small_disk import largest_file


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.zeros(10)}, metadata={})
    with largest_file(1 << 16), pytest.raises(OutputError, match=r"a\.safetensors: no space left") as told:
        save_tensors(path, {"x": torch.ones(100_000)}, metadata={})
    assert told.value.reason == "disk_full"
    assert load_file(path)["x"].tolist() == [0] * 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_others_may_read_a_file_as_they_may_any_other(tmp_path):
    (tmp_path / "other").touch()
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, metadata={})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_backbones_and_ndc_checkpoints_on_a_full_disk(tmp_path):
    settings = BackboneSettings(preset="test_efficientnet")
    backbone = build_backbone(settings)
    with largest_file(1 << 16):
        with pytest.raises(OutputError, match=r"b\.safetensors: no space left"):
            save_backbone(backbone, settings, tmp_path / "b.safetensors", notes={})
        with pytest.raises(OutputError, match=r"n\.safetensors: no space left"):
            write_random_ndc(tmp_path / "n.safetensors")
    assert list(tmp_path.iterdir()) == []
