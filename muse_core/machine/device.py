"""Where pixels are decoded and networks run: `auto` to a device that answers, GPUs shared out among processes."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from muse_core.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda")
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_POLL_S = 0.1


def resolve_device(device: str) -> str:
    """`auto` to `cuda` where a GPU answers, else to `cpu`; `cpu` and `cuda` as they are.

    Raises:
        ConfigError: the name is unknown, or `cuda` is asked for and none answers.
    """
    if device not in ("auto", *DEVICES):
        raise ConfigError(f"--device {device}: needs auto, {' or '.join(DEVICES)}")
    if device == "cpu":
        return device
    found = _has_cuda()
    if device == "cuda" and not found:
        raise ConfigError("--device cuda: no CUDA device answers here; use --device cpu, or see muse doctor")
    return "cuda" if found else "cpu"


def _has_cuda() -> bool:
    # Importing torch takes seconds and hundreds of MB; without the driver there is nothing to ask it.
    if not Path("/proc/driver/nvidia/version").exists():
        return False
    import torch

    return bool(torch.cuda.is_available())


def gpu_count() -> int:
    """CUDA devices that answer; 0 where there is no driver."""
    if not _has_cuda():
        return 0
    import torch

    return int(torch.cuda.device_count())


def best_dtype(device: "torch.device | str", *, cpuinfo: Path = _CPUINFO) -> "torch.dtype":
    """bfloat16 where the device computes with it, else float32: emulated, it is slower than what it replaces.

    Args:
        device: where a network runs.
        cpuinfo: what the kernel says of the CPU.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        with torch.cuda.device(place):
            known = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if known else torch.float32
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="ignore").split())
    except OSError:
        return torch.float32
    return torch.bfloat16 if flags & _BFLOAT16_FLAGS else torch.float32


@contextmanager
def one_gpu(device: str, *, locks: Path | None = None) -> Iterator[str]:
    """A device of one's own for the length of the block: `cuda` becomes the first GPU that no other holder uses.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; all but `cuda` come back as they are, and so does that of the only GPU.
        locks: folder of the lock files; the machine's for temporary files unless given.
    """
    if device != "cuda" or (count := gpu_count()) < 2:
        yield device
        return
    folder = locks or Path(tempfile.gettempdir())
    gpus = [FileLock(folder / f"muse-gpu-{number}.lock", thread_local=False) for number in range(count)]
    number = _first_free(gpus)
    try:
        yield f"cuda:{number}"
    finally:
        gpus[number].release()


def _first_free(gpus: list[FileLock]) -> int:
    while True:
        for number, lock in enumerate(gpus):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number
        time.sleep(_POLL_S)
