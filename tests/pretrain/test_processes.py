"""Runs as processes of their own: killed, stopped, and two that make one."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from muse_core.pretrain.checkpoint import read_checkpoint
from tests.pretrain.tiny_runs import arguments

MUSE = [sys.executable, "-m", "muse_core.cli"]


def command(rois, out, *overrides, start=MUSE):
    return [*start, "pretrain", "--rois", str(rois), "--out", str(out), "--device", "cpu", *arguments(*overrides)]


def state(out):
    return read_checkpoint(out / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def whole(rois, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    done = subprocess.run([*command(rois, out, "steps=30"), "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["step"], answer["done"]) == (30, True)
    assert answer["backbone"] == str(out / "muse-backbone.safetensors")
    return out


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_step_and_resumed_the_weights_are_the_same(rois, whole, tmp_path, kill):
    every_step = "run.checkpoint_minutes=0"
    process = subprocess.Popen(
        command(rois, tmp_path, "steps=30", every_step), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.Random(str(kill)).random())
    process.send_signal(kill)
    _, said = process.communicate(timeout=60)
    step = state(tmp_path).about["step"]
    assert 0 < step < 30
    assert process.returncode == (130 if kill == signal.SIGTERM else -kill)
    assert "Traceback" not in said
    subprocess.run([*command(rois, tmp_path, "steps=30"), "--resume"], check=True, capture_output=True)
    one, two = state(whole).tensors, state(tmp_path).tensors
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_processes_make_the_step_of_one(rois, tmp_path):
    """Batch norms frozen: their statistics are of each process's own views, and gloo has no synchronised ones."""
    options = ("steps=3", "batch_norm=frozen", "run.log_every=1", "optimiser.learning_rate=0.01")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = command(rois, tmp_path / "two", *options, start=[*torchrun, "-m", "muse_core.cli"])
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in (both, command(rois, tmp_path / "one", *options))
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
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
    wrong = subprocess.run(command(rois, tmp_path, "loss.lambda=1"), capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "unknown key 'loss.lambda'" in wrong.stderr
    assert not list(tmp_path.iterdir())
