"""How many threads torch uses for one call on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have the calling thread's networks use so many cores for the length of the block.

    Sums are split by thread, so the last digits of a network's answers hang on the number: what makes tables computes
    with one thread a call and takes its speed from several calls at once.

    Args:
        count: how many; 0 leaves torch's own choice.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
