"""Runs as processes of their own: killed, stopped, and two that make one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from muse_core.machine import device as device_module
from muse_core.pretrain.processes import joined_processes
from muse_core.pretrain.views.loader import ViewLoader
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.training.checkpoint import read_checkpoint
from tests.command import run_muse
from tests.pretrain.tiny_runs import arguments, tiny
from tests.pretrain.views.drawn_rois import roi_row, write_dataset

MUSE = [sys.executable, "-m", "muse_core.cli"]
WAIT_S = 240  # for what takes seconds on a machine that is not busy


def words_of(rois, out, *overrides):
    return ["pretrain", "--rois", str(rois), "--out", str(out), "--device", "cpu", *arguments(*overrides)]


def command(rois, out, *overrides, start=MUSE):
    return [*start, *words_of(rois, out, *overrides)]


@contextmanager
def started(*commands):
    """Run commands side by side; none of them, nor what they start, outlives the test."""
    running = [
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        for words in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def state(out):
    return read_checkpoint(out / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def whole(rois, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    done = run_muse(*words_of(rois, out, "steps=30"), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["step"], answer["done"]) == (30, True)
    assert answer["backbone"] == str(out / "muse-backbone.safetensors")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_step_and_resumed_the_weights_are_the_same(rois, whole, tmp_path, kill):
    every_step = "run.checkpoint_minutes=0"
    with started(command(rois, tmp_path, "steps=30", every_step)) as (process,):
        deadline = time.monotonic() + WAIT_S
        while not (tmp_path / "checkpoint.safetensors").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.Random(str(kill)).random())
        process.send_signal(kill)
        _, said = process.communicate(timeout=WAIT_S)
    step = state(tmp_path).about["step"]
    assert 0 < step < 30
    assert process.returncode == (130 if kill == signal.SIGTERM else -kill)
    assert "Traceback" not in said
    assert run_muse(*words_of(rois, tmp_path, "steps=30"), "--resume").returncode == 0
    one, two = state(whole).tensors, state(tmp_path).tensors
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Every other ROI without nuclei: of two processes with one ROI a step each, one often has no match at all."""
    rows = [roi_row(number, n_nuclei=8 * (number % 2)) for number in range(10)]
    return write_dataset(tmp_path_factory.mktemp("sparse"), rows)


def nuclei_by_rank(rois, options):
    """How many nuclei each of two processes has in each of the first steps."""
    settings, dataset = tiny(*options), RoiDataset(rois)
    per_rank = {"batch_size": settings.batch_size // 2, "seed": settings.seed, "world": 2}
    loaders = [ViewLoader(dataset, settings.views, rank=rank, **per_rank) for rank in (0, 1)]
    return [[batch.xy.shape[1] for batch in loader.batches(0)] for loader in loaders]


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "batch_size"), [("rois", 4), ("sparse", 2)])
def test_two_processes_make_the_step_of_one(dataset, batch_size, tmp_path, request):
    """Batch norms frozen: their statistics are of each process's own views, and gloo has no synchronised ones.

    Weights, teacher and centres agree to 2e-3 after three steps, losses to 1e-4 of their size.
    """
    rois = request.getfixturevalue(dataset)
    options = ("steps=3", "batch_norm=frozen", "run.log_every=1", "optimiser.learning_rate=0.01")
    options = (*options, f"batch_size={batch_size}")
    if dataset == "sparse":
        assert any(0 in counts and sum(counts) for counts in list(zip(*nuclei_by_rank(rois, options), strict=True))[:3])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = command(rois, tmp_path / "two", *options, start=[*torchrun, "-m", "muse_core.cli"])
    with started(both) as (process,):
        alone = run_muse(*words_of(rois, tmp_path / "one", *options))
        _, said = process.communicate(timeout=WAIT_S)
    for status, told in ((process.returncode, said), (alone.returncode, alone.stderr)):
        assert status == 0, told
        assert "Warning" not in told
    one, two = (state(tmp_path / name).tensors for name in ("one", "two"))
    for name in one:
        # Adam divides by the gradient's size: where that is rounding error, so is the direction of the first steps.
        tolerance = 2e-3 if name.startswith(("student", "teacher")) else 1e-4
        if not name.startswith("optimiser"):
            torch.testing.assert_close(two[name], one[name], rtol=tolerance, atol=tolerance, msg=name)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_is_wrong_is_one_line(rois, tmp_path):
    wrong = run_muse(*words_of(rois, tmp_path, "loss.lambda=1"))
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "unknown key 'loss.lambda'" in wrong.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("gpus", "wanted"), [(1, 0), (2, 0)])
def test_a_lone_process_on_a_gpu(gpus, wanted, monkeypatch, tmp_path):
    given: list[int] = []
    monkeypatch.setattr(device_module, "gpu_count", lambda: gpus)
    monkeypatch.setattr(device_module.tempfile, "gettempdir", lambda: str(tmp_path))
    # torch takes no device without a number here.
    monkeypatch.setattr(torch.cuda, "set_device", lambda one: given.append(torch.cuda._utils._get_device_index(one)))
    with joined_processes("cuda") as processes:
        assert (processes.world_size, processes.device.type) == (1, "cuda")
    assert given == [wanted]
