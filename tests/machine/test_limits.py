"""Limits of containers and schedulers are seen, whichever cgroup version sets them."""

import os
from pathlib import Path

import psutil
import pytest

from muse_core.machine.limits import cpu_count, memory_limit_bytes


def cgroup_tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup file system and the kernel's list for this process, as files."""
    root = folder / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (folder / "own").write_text(own)
    return root, folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/job\n", {"job/cpu.max": "100000 100000\n"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "50000 100000", "job/step/cpu.max": "max 100000"}, 1),  # the parent's counts
        ("0::/elsewhere/on/the/host\n", {"cpu.max": "100000 100000"}, 1),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "1000", "cpu,cpuacct/job/cpu.cfs_period_us": "1000"},
            1,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("", {}, None),
    ],
)
def test_cpu_count(tmp_path, own, files, cores):
    affinity = len(os.sched_getaffinity(0))
    assert cpu_count(*cgroup_tree(tmp_path, own, files)) == (cores or affinity)


def test_part_of_a_core_counts_as_one_and_more_than_affinity_never_counts(tmp_path):
    root, own = cgroup_tree(tmp_path, "0::/\n", {"cpu.max": "10000 100000"})
    assert cpu_count(root, own) == 1
    (root / "cpu.max").write_text("99900000 100000")
    assert cpu_count(root, own) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/job\n", {"job/memory.max": "1073741824\n"}, 1 << 30),
        ("0::/job/step\n", {"job/memory.max": "2147483648", "job/step/memory.max": "max"}, 2 << 30),
        ("9:memory:/job\n", {"memory/job/memory.limit_in_bytes": "1073741824"}, 1 << 30),
        ("9:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_memory_limit(tmp_path, own, files, limit):
    expected = limit or psutil.virtual_memory().total
    assert memory_limit_bytes(*cgroup_tree(tmp_path, own, files)) == expected


def test_this_machine_has_some_of_both():
    assert cpu_count() >= 1
    assert memory_limit_bytes() > 64 << 20
