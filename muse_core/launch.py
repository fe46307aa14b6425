"""A `muse` command as processes of its own: one a GPU by torchrun, stopped with the caller, its last words kept.

Training is kept out of the process that orchestrates it: where CUDA or the kernel's out-of-memory killer ends it, the
caller is still there and starts it again from its last checkpoint.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from muse_core.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 120  # a checkpoint of the largest preset is written in seconds, on a slow disk in a minute
_USAGE = 2
_LAST_LINES = 3


def launch(arguments: Sequence[str], *, log: Path, processes: int = 1) -> None:
    """Run `muse` with these arguments and wait for it.

    When the caller is interrupted, the processes are asked to stop, which makes training write a checkpoint, and are
    killed if they have not stopped within `STOP_WITHIN_S`.

    Args:
        arguments: of `muse`, such as `["pretrain", "--rois", "runs/tcga", "--out", "runs/muse", "--resume"]`.
        log: a file that what they print is appended to.
        processes: how many; one runs as it is, more by torchrun on this machine.

    Raises:
        ConfigError: the command refused its arguments or settings; trying again would not help.
        TrainingError: it failed, with its last lines (reason failed), or was ended by a signal (reason crashed).
    """
    command = _command(arguments, processes)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        logger.info("starting %s", " ".join(command))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            status = process.wait()
        finally:
            _stop(process)
    if status:
        raise _error(status, log, start)


def _command(arguments: Sequence[str], processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "muse_core.cli", *arguments]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *torchrun, "-m", "muse_core.cli", *arguments]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error(status: int, log: Path, start: int) -> ConfigError | TrainingError:
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    said = " / ".join(lines[-_LAST_LINES:]) or "nothing printed"
    if status == _USAGE:
        return ConfigError(said)
    if status < 0:  # subprocess's sign for a signal
        return TrainingError(f"{log}: the process was ended by signal {-status}; last lines: {said}", reason="crashed")
    return TrainingError(f"{log}: exit status {status}; last lines: {said}", reason="failed")
