"""The memory of a step, and what is made of the machine that is found: micro-batches and loader workers."""

import pytest
import torch

from muse_core.machine.limits import cpu_count
from muse_core.pretrain import memory
from muse_core.pretrain.feed import loader_workers
from muse_core.pretrain.memory import micro_batches, step_bytes
from muse_core.pretrain.processes import Processes
from muse_core.pretrain.trainer import pretrain
from muse_core.training.checkpoint import read_checkpoint
from tests.pretrain.tiny_runs import tiny

ALONE = Processes(0, 1, torch.device("cpu"))


def bytes_of(*overrides):
    settings = tiny(*overrides)
    return step_bytes(settings, settings.views, ALONE.device)


def test_what_a_roi_takes_grows_with_the_pixels_of_its_views_and_shrinks_where_it_is_computed_again():
    few = ("views.max_nuclei=4", "image_head.prototypes=2", "nucleus_head.prototypes=2")
    fixed, each = bytes_of(*few)
    assert 3 < bytes_of(*few, "views.global_px=128", "views.local_px=64")[1] / each < 4.5
    assert bytes_of(*few, "run.recompute=true")[1] < 0.7 * each
    assert bytes_of(*few, "image_head.hidden=2000")[0] > fixed + 20 * 2000 * 2000


@pytest.mark.parametrize(("fitting", "expected"), [(16, 1), (8.5, 2), (7.9, 4), (0.1, 16)])
def test_as_few_micro_batches_as_fit(fitting, expected, monkeypatch):
    settings = tiny("batch_size=16")
    monkeypatch.setattr(memory, "step_bytes", lambda *about: (1000, 50))
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((1000 + 50 * fitting) / memory._USED) + 1)
    assert micro_batches(settings, settings.views, ALONE) == expected


@pytest.mark.slow
def test_a_run_takes_what_fits(rois, tmp_path, monkeypatch):
    fixed, each = bytes_of()
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((fixed + 2.5 * each) / memory._USED))
    found = []
    for name, accumulate in (("found", 0), ("given", 2)):
        pretrain(rois, tmp_path / name, settings=tiny("steps=1", f"accumulate={accumulate}"))
        found.append(read_checkpoint(tmp_path / name / "checkpoint.safetensors").tensors)
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_workers_by_cores(monkeypatch):
    gpu = Processes(0, 1, torch.device("cuda"))
    assert [loader_workers(wanted, ALONE) for wanted in (3, "auto")] == [3, 0]
    assert loader_workers("auto", gpu) == max(1, cpu_count() - 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10 * cpu_count()))
    assert loader_workers("auto", gpu) == 1
