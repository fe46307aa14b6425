import pickle

import pytest
import torch
from torch import nn

from muse_core.errors import ConfigError, OutputError
from muse_core.training.checkpoint import (
    load_optimiser,
    load_part,
    optimiser_tensors,
    part_of,
    read_checkpoint,
    save_checkpoint,
    under,
)
from tests.data.small_disk import largest_file


def test_it_comes_back_as_it_was(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {"a/x": torch.randn(3, 4).T, "a/n": torch.tensor(7), "b/x": torch.randn(2)}
    save_checkpoint(path, tensors, {"step": 3, "names": ["ä"]})
    found = read_checkpoint(path)
    assert found.about == {"step": 3, "names": ["ä"]}
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    assert part_of(found, "a").keys() == {"x", "n"}
    assert path.stat().st_mode & 0o044, "others may read it"


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"x": torch.zeros(10)}, {"step": 1})
    with largest_file(1 << 16), pytest.raises(OutputError, match=r"c\.safetensors: no space left"):
        save_checkpoint(path, {"x": torch.zeros(100_000)}, {"step": 2})
    assert read_checkpoint(path).about["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the payload ran')",))


@pytest.mark.parametrize("write", ["pickle", "torch", "text", "empty"])
def test_what_is_no_checkpoint_is_told_and_not_run(tmp_path, write):
    path = tmp_path / "c.safetensors"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif write == "torch":
        torch.save({"teacher": Payload()}, path)
    else:
        path.write_text("hello" if write == "text" else "")
    with pytest.raises(ConfigError, match="no checkpoint of muse pretrain"):
        read_checkpoint(path)


def test_another_program_s_tensors_are_told(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match="'muse-pretrain-1' needed"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_another_model_s_tensors_are_named(tmp_path):
    save_checkpoint(tmp_path / "c", under("student", nn.Linear(2, 3).state_dict()), {})
    with pytest.raises(ConfigError, match="1 tensors of the student differ, the first is weight"):
        load_part(nn.Linear(4, 3), read_checkpoint(tmp_path / "c"), "student")


def test_the_optimiser_goes_on_as_if_nothing_had_happened():
    def made():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1), {p: n for n, p in layer.named_parameters()}

    def step(layer, optimiser):
        optimiser.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    layer, optimiser, names = made()
    step(layer, optimiser)
    kept = {name: tensor.clone() for name, tensor in optimiser_tensors(optimiser, names).items()}
    weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    step(layer, optimiser)
    again, optimiser, names = made()
    again.load_state_dict(weights)
    load_optimiser(optimiser, names, kept)
    step(again, optimiser)
    assert torch.equal(layer.weight, again.weight)
