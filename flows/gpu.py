"""What flows that may use a GPU share: a global concurrency limit, so that no two runs are given the same one."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency

from muse_core.machine.device import gpu_count

# A global concurrency limit of this name, with as many slots as there are GPUs, keeps runs from sharing one:
#   prefect gcl create muse-gpu --limit 8 --slot-decay-per-second 0
GPU_LIMIT = "muse-gpu"


def gpus_wanted(device: str, processes: int | None) -> int:
    """How many GPUs as many processes will use, each one at most; None for one a GPU. 0 without a GPU.

    Args:
        device: auto, cpu or cuda.
        processes: how many there are.
    """
    gpus = 0 if device == "cpu" else gpu_count()
    return gpus if processes is None else min(gpus, max(1, processes))


@contextmanager
def gpu_slots(count: int) -> Iterator[None]:
    """Wait for so many slots of the limit and hold them for the length of the block; 0 waits for nothing."""
    with concurrency([GPU_LIMIT] if count else [], occupy=max(1, count)):
        yield
