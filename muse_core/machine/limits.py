"""What this process may use of the machine: cores by affinity and cgroup quota, memory by cgroup limit."""

import math
import os
import resource
import sys
from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_count(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Cores that this process may keep busy, at least 1.

    The smaller of the affinity mask's size (taskset, SLURM) and the CPU quota (containers), the quota rounded up: with
    1.5 cores two workers wait a little, one would leave a third unused.

    Args:
        cgroup_root: where the cgroup file systems are mounted.
        own_cgroup: the kernel's list of this process's cgroups.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_cpu_quota(folder) for folder in _cgroup_folders(cgroup_root, own_cgroup, "cpu")]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def memory_limit_bytes(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Bytes of memory that this process and its children may use: the smaller of the machine's and the cgroups' limits.

    Args:
        cgroup_root: where the cgroup file systems are mounted.
        own_cgroup: the kernel's list of this process's cgroups.
    """
    limits = [int(psutil.virtual_memory().total)]
    for folder in _cgroup_folders(cgroup_root, own_cgroup, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # cgroup v2, v1
            text = _read(folder / name)
            if text.isdigit() and int(text) > 0:  # v2 says "max" for none, v1 a number beyond any machine
                limits.append(int(text))
    return min(limits)


def _cgroup_folders(root: Path, own_cgroup: Path, controller: str) -> list[Path]:
    """The folders of this process's cgroup and of every one above it: any of them may hold the limit.

    Source: cgroups(7), "/proc/[pid]/cgroup": lines `id:controllers:path`, with no controllers for v2.
    """
    folders: list[Path] = []
    for line in _read(own_cgroup).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers and (root / controllers).is_dir() else root
        if controllers and base == root:
            base = root / controller
        # In a container the path may be the host's, which is not here; the mount's top is then the cgroup itself.
        here = base / path.strip("/")
        folders.extend(folder for folder in (here, *here.parents) if folder.is_relative_to(base))
    return folders


def _cpu_quota(folder: Path) -> float | None:
    """Cores that a cgroup may use, or None where it sets no quota."""
    v2 = _read(folder / "cpu.max").split()
    if len(v2) == 2 and v2[0].isdigit():
        return int(v2[0]) / int(v2[1])
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period) > 0:  # -1, not a digit, is no quota
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def own_peak_rss_bytes() -> int:
    """Peak resident memory of the calling process since it started."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
