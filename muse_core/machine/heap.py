"""What the C allocator keeps and gives back."""

import ctypes
import sys

# Source: mallopt(3), <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_KEPT_BYTES = 1 << 29  # more than a layer's output on the largest tile


def keep_freed_memory() -> None:
    """Have this process's malloc keep large blocks for reuse, where it is glibc's; a setting of the whole process.

    By default each layer's output is mapped anew, and the kernel clears every page of it again: more than half of the
    network's time on a tile of 2048 px.
    """
    _mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def share_one_heap() -> None:
    """Have the threads of this process share one heap, where malloc is glibc's; a setting of the whole process.

    By default each thread has its own, whose large blocks are mapped anew for each layer of the network and cleared by
    the kernel page by page: that took up to half of the time of a tile, and memory that no other thread can use.
    """
    _mallopt(_M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return what the heap holds of unused pages, where malloc is glibc's: blocks of many sizes leave gaps in it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:  # musl has none
        mallopt(parameter, value)
