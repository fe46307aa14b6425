"""Commands as processes of their own: real ones."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from muse_core.errors import TrainingError
from muse_core.machine.launch import launch

WAIT_S = 240  # for what takes seconds on a machine that is not busy


def test_the_answer_is_the_command_s_own(tmp_path):
    answer = launch(["doctor"], log=tmp_path / "deep" / "log.txt")
    assert answer
    assert json.loads((tmp_path / "deep" / "log.txt").read_text().splitlines()[-1]) == answer


@pytest.mark.slow
def test_two_processes_run_by_torchrun(tmp_path):
    (tmp_path / "m.csv").write_text("slide_id,case_id,project,uri\nS,C,P,s.svs\n")
    (tmp_path / "s.svs").touch()
    launch(["manifest", "check", str(tmp_path / "m.csv")], log=tmp_path / "log.txt", processes=2)
    assert sum(line.startswith("{") for line in (tmp_path / "log.txt").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_is_told_in_the_command_s_own_words(tmp_path, processes):
    log = tmp_path / "log.txt"
    log.write_text("what came first\n")
    arguments = ["import-patches", "--images", str(tmp_path / "gone"), "--mpp", "0.5", "--out", str(tmp_path)]
    with pytest.raises(TrainingError, match="no such folder") as told:
        launch(arguments, log=log, processes=processes)
    assert told.value.reason == "config_invalid"
    assert log.read_text().startswith("what came first\n")


def listen_to_signals() -> None:
    """Whatever became of them in this process, which other tests share: what is ignored or blocked is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def start_endless(tmp_path) -> tuple[subprocess.Popen, psutil.Process]:
    """A caller in a process of its own, waiting for a command that reads a pipe nobody writes to."""
    fifo = tmp_path / "never.csv"
    os.mkfifo(fifo)
    code = (
        "from pathlib import Path; from muse_core.machine.launch import launch\n"
        f"launch(['manifest', 'check', {str(fifo)!r}], log=Path({str(tmp_path / 'log.txt')!r}))"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_signals
    )
    end = time.monotonic() + WAIT_S
    while not (children := psutil.Process(caller.pid).children()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return caller, children[0]


def test_the_kernel_s_kill_is_a_crash(tmp_path):
    caller, child = start_endless(tmp_path)
    child.kill()
    _, said = caller.communicate(timeout=WAIT_S)
    assert "ended by signal 9" in said


@pytest.mark.slow
def test_an_interrupted_caller_stops_its_command(tmp_path):
    caller, child = start_endless(tmp_path)
    time.sleep(1.5)  # let the command come up, so that it meets the signal as a training run would
    caller.send_signal(signal.SIGINT)
    try:
        caller.communicate(timeout=WAIT_S)
        assert not child.is_running()
    finally:
        for process in (child, caller):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        caller.communicate()
