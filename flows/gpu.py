"""What flows that may use a GPU share: a global concurrency limit, so that no two runs are given the same one."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency

from muse_core.machine.device import gpu_count

# A global concurrency limit of this name, with as many slots as there are GPUs, keeps runs from sharing one. `muse
# deploy` makes it; where there is none, nothing is waited for.
GPU_LIMIT = "muse-gpu"
LEASE_S = 60  # how long slots stay taken after their holder died; Prefect's shortest


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
    """Wait for so many slots of the limit and hold them for the length of the block; 0 waits for nothing.

    A server that forgets the slots, as one does that is started again without lease storage, ends no run: on its own
    machine `one_gpu` keeps runs apart.
    """
    names = [GPU_LIMIT] if count else []
    with concurrency(names, occupy=max(1, count), lease_duration=LEASE_S, raise_on_lease_renewal_failure=False):
        yield
