"""Importing muse sets nothing for the process; its entry points do."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from muse_core.machine.process import own_process

ROOT = Path(__file__).parents[2]
# What only an entry point calls, or a block that puts back what was there.
PROCESS_WIDE = {"mallopt", "setNumThreads", "set_num_threads", "set_num_interop_threads", "putenv", "own_process"}
ALLOWED = {
    "machine/process.py": {"setNumThreads", "environ", "own_process"},
    "machine/threads.py": {"set_num_threads"},  # a block, which puts back
    "machine/heap.py": {"mallopt"},
    "machine/dask_workers.py": {"own_process"},  # at the start of a worker
    "cli/app.py": {"own_process"},
    "pretrain/views/loader.py": {"setNumThreads"},  # at a worker's start
}

IMPORT_ALL = """
import ctypes, json, os, pkgutil, sys
before = dict(os.environ)
asked = []
import cv2, torch
def state():
    return [cv2.getNumThreads(), torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype()]
threads = state()
real = ctypes.CDLL.__getattr__
def told(library, name):
    if name in ("mallopt", "malloc_trim"):
        asked.append(name)
    return real(library, name)
ctypes.CDLL.__getattr__ = told
import importlib, muse_core
modules = sorted(one.name for one in pkgutil.walk_packages(muse_core.__path__, "muse_core."))
modules = [name for name in modules if not name.endswith("__main__")]
for name in modules:
    importlib.import_module(name)
changed = sorted(key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key))
of_libraries = ("KMP_", "LD_LIBRARY_PATH", "TORCHINDUCTOR_")  # set by OpenMP, OpenCV and torch when they are imported
ours = [key for key in changed if not key.startswith(of_libraries)]
print(json.dumps({"modules": len(modules), "environ": ours, "same": threads == state(), "allocator": asked}))
"""


def test_importing_every_module_sets_nothing_for_the_process():
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found.pop("modules") > 200
    assert found == {"environ": [], "same": True, "allocator": []}


def _process_wide(path: Path) -> set[str]:
    """Names of process-wide setters that a file calls, and `environ` where it is written to."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in PROCESS_WIDE:
                found.add(name)
            if name in ("setdefault", "update", "pop") and "environ" in ast.unparse(node.func):
                found.add("environ")
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any("os.environ[" in ast.unparse(target) for target in targets):
            found.add("environ")
    return found


def test_no_library_call_sets_anything_for_the_process():
    package = ROOT / "muse_core"
    found = {str(path.relative_to(package)): _process_wide(path) for path in package.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls - ALLOWED.get(name, set())} == {}


def test_an_entry_point_may_be_one_twice(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    own_process()
    own_process()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0", "what a user set stands"
