"""A `muse` command as processes of its own: one a GPU by torchrun, stopped with the caller, its last words kept.

Training is kept out of the process that orchestrates it: where CUDA or the kernel's out-of-memory killer ends it, the
caller is still there and starts it again from its last checkpoint.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_core.errors import TrainingError

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 120  # a checkpoint of the largest preset is written in seconds, on a slow disk in a minute
_LAST_LINES = 3


def launch(arguments: Sequence[str], *, log: Path, processes: int = 1) -> dict[str, Any]:
    """Run `muse` with these arguments and `--json`, and wait for it.

    When the caller is interrupted, the processes are asked to stop, which makes training write a checkpoint, and are
    killed if they have not stopped within `STOP_WITHIN_S`.

    Args:
        arguments: of `muse`, such as `["pretrain", "--rois", "runs/tcga", "--out", "runs/muse", "--resume"]`.
        log: a file that what they print is appended to.
        processes: how many; one runs as it is, more by torchrun on this machine.

    Returns:
        The JSON object that the command ended with.

    Raises:
        TrainingError: it failed, with its own message and reason; or it died without a word (reason crashed), with the
            last lines of the log.
    """
    command = [*_launcher(processes), "-m", "muse_core.cli", *arguments, "--json"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        logger.info("starting %s", " ".join(command))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            status = process.wait()
        finally:
            _stop(process)
    lines = _lines_from(log, start)
    answer = _last_object(lines)
    if "error" in answer:
        raise TrainingError(str(answer["error"]), reason=str(answer["reason"]))
    if status:
        raise TrainingError(_last_words(status, log, lines), reason="crashed")
    return answer


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lines_from(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _last_object(lines: Sequence[str]) -> dict[str, Any]:
    """The last line that is a JSON object; torchrun says more after it when a process failed."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except json.JSONDecodeError:
                continue
    return {}


def _last_words(status: int, log: Path, lines: Sequence[str]) -> str:
    said = " / ".join(lines[-_LAST_LINES:]) or "nothing was printed"
    end = f"ended by signal {-status}" if status < 0 else f"exit status {status}"  # subprocess's sign for a signal
    return f"{log}: {end}; {said}"
