"""Tensors in files, and disks that are full."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import muse_core
from muse_core.errors import ConfigError, OutputError
from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.models.backbone_file import save_backbone
from muse_core.models.tensor_file import format_of, hash_of, read_tensors, save_tensors, sha256_of
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


def test_what_a_file_is_and_is_not_is_told_in_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, metadata={"format": "ours-1", "note": "x"})
    found = read_tensors(path, "ours-1", what="weights", hint="make them")
    assert (found.about, found.tensors["a"].tolist()) == ({"note": "x"}, [1.0, 1.0])
    assert isinstance(read_tensors(path, "ours-1", what="weights", hint="", framework="np").tensors["a"], np.ndarray)
    assert format_of(path) == "ours-1"
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hash_of(path) == sha256_of(path)[:12]
    with pytest.raises(ConfigError, match=r"^weights .*a\.safetensors: format 'ours-1' found, 'b' needed; make them$"):
        read_tensors(path, "b", what="weights", hint="make them")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"^weights .*a\.safetensors: cannot be read \(.*\); make them$"):
        read_tensors(path, "ours-1", what="weights", hint="make them")
    for ask in (format_of, hash_of):
        with pytest.raises(ConfigError, match="gone: cannot be read"):
            ask(tmp_path / "gone")


def test_nobody_else_opens_such_files():
    sources = [path for path in Path(muse_core.__file__).parent.rglob("*.py") if path.name != "tensor_file.py"]
    assert [path.name for path in sources if "safe_open" in path.read_text(encoding="utf-8")] == []
