"""Silence for C libraries that write to standard error by themselves."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_state = {"depth": 0, "saved": -1}


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Point file descriptor 2 at nothing for the length of the block.

    cuCIM warns of an absent libcuda on import, libtiff of every unknown tag; neither has a switch that reaches Python.
    The descriptor is the process's, so the block counts its users and must be short: another thread's message in that
    moment is lost.
    """
    with _lock:
        _state["depth"] += 1
        if _state["depth"] == 1:
            _state["saved"] = _divert()
    try:
        yield
    finally:
        with _lock:
            _state["depth"] -= 1
            if _state["depth"] == 0:
                _restore(_state["saved"])


def _divert() -> int:
    """Descriptor 2 to the null device; returns a copy of what it was, -1 where there was none."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # a service with no standard error at all
        return -1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return saved


def _restore(saved: int) -> None:
    if saved >= 0:
        os.dup2(saved, 2)
        os.close(saved)
