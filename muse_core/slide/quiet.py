"""Silence for C libraries that write to the terminal by themselves."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_lock = threading.Lock()
_state = {"depth": 0}
_saved: dict[int, int] = {}


@contextmanager
def quiet_output() -> Iterator[None]:
    """Point the descriptors of standard output and error at nothing for the length of the block.

    cuCIM warns of an absent libcuda on import, and of its absence from cuFile where PyTorch has brought that along;
    libtiff warns of every unknown tag. None has a switch that reaches Python. The descriptors are the process's, so the
    block counts its users and must be short: another thread's message in that moment is lost.
    """
    with _lock:
        _state["depth"] += 1
        if _state["depth"] == 1:
            for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
                _saved[descriptor] = _divert(descriptor, stream)
    try:
        yield
    finally:
        with _lock:
            _state["depth"] -= 1
            if _state["depth"] == 0:
                for descriptor, saved in _saved.items():
                    _restore(descriptor, saved)


def _divert(descriptor: int, stream: TextIO | None) -> int:
    """A descriptor to the null device; returns a copy of what it was, -1 where there was none."""
    try:
        if stream is not None:
            stream.flush()
        saved = os.dup(descriptor)
    except (OSError, ValueError):  # a service with no such stream at all
        return -1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return saved


def _restore(descriptor: int, saved: int) -> None:
    if saved >= 0:
        os.dup2(saved, descriptor)
        os.close(saved)
