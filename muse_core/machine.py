"""What this process may use of the machine: cores by affinity and cgroup quota, memory by cgroup limit, a GPU."""

import math
import os
from pathlib import Path

import psutil

from muse_core.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")


def cpu_count(cgroup: Path = CGROUP) -> int:
    """Cores this process may keep busy: the smaller of its CPU affinity and its cgroup's quota, at least 1.

    Source of the files' formats: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return max(1, min(cores, math.ceil(quota))) if quota else max(1, cores)


def memory_limit_bytes(cgroup: Path = CGROUP) -> int:
    """Memory this process may use: the smaller of the machine's and its cgroup's limit."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(cgroup / name)
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def resolve_device(device: str) -> str:
    """`auto` to `cuda` where a GPU answers, else `cpu`; other names as they are.

    Raises:
        ConfigError: the name is unknown, or `cuda` is asked for and there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: needs auto, cpu or cuda")
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


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of time that the cgroup grants; None for no bound."""
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
