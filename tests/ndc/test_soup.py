from dataclasses import replace

import pytest
import torch

from muse_core.errors import ConfigError
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.checkpoint import load_checkpoint, save_checkpoint
from muse_core.ndc.soup import mean_of


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    one, other = load_checkpoint(MUSE_NANO_NDC), load_checkpoint(MUSE_NANO_NDC)
    with torch.no_grad():
        other.net.h_dense[-2].bias += 2
    paths = folder / "one.safetensors", folder / "other.safetensors"
    for checkpoint, path in zip((one, other), paths, strict=True):
        save_checkpoint(checkpoint, path)
    return paths


def test_each_weight_is_the_mean(two):
    mean, first = mean_of(two), load_checkpoint(two[0])
    assert torch.allclose(mean.net.h_dense[-2].bias, first.net.h_dense[-2].bias + 1)
    changed = {f"h_dense.{len(first.net.h_dense) - 2}.bias"}
    same = first.net.state_dict().keys() - changed
    assert all(torch.equal(mean.net.state_dict()[name], first.net.state_dict()[name]) for name in same)
    assert mean.head.class_names == first.head.class_names


def test_one_checkpoint_and_other_classes_are_refused(two, tmp_path):
    with pytest.raises(ConfigError, match="two or more"):
        mean_of(two[:1])
    stranger = load_checkpoint(two[0])
    names = tuple(f"other {name}" for name in stranger.head.class_names)
    save_checkpoint(replace(stranger, head=replace(stranger.head, class_names=names)), tmp_path / "F.safetensors")
    with pytest.raises(ConfigError, match=r"one\.safetensors: another backbone, other heads or classes than .*F\."):
        mean_of([two[0], tmp_path / "F.safetensors"])
