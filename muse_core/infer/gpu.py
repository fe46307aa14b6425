"""GPUs shared out among the processes of this machine, and how busy they were."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import torch
from filelock import FileLock, Timeout

_POLL_S = 0.1
_SAMPLE_S = 0.25


@contextmanager
def one_gpu(device: str, *, locks: Path | None = None) -> Iterator[str]:
    """A device of one's own for the length of the block: `cuda` becomes the first GPU that no other holder uses.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; all but `cuda` come back as they are, and so does that of the only GPU.
        locks: folder of the lock files; the machine's for temporary files unless given.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        yield device
        return
    folder = locks or Path(tempfile.gettempdir())
    gpus = [
        FileLock(folder / f"muse-gpu-{number}.lock", thread_local=False) for number in range(torch.cuda.device_count())
    ]
    number = _first_free(gpus)
    try:
        yield f"cuda:{number}"
    finally:
        gpus[number].release()


class GpuUse:
    """Samples how busy a GPU is, by its driver, for the length of a `with` block; `share` is None where none tells."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._samples: list[float] = []
        self._ended = Event()
        self._thread = Thread(target=self._sample, daemon=True, name="gpu-use")

    def __enter__(self) -> "GpuUse":
        if self._device != "cpu":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def share(self) -> float | None:
        """Mean share of time that the GPU had work, 0..1."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            try:
                self._samples.append(torch.cuda.utilization(torch.device(self._device)) / 100)
            except (ImportError, RuntimeError):  # the driver's Python package is not installed, or it does not answer
                return


def _first_free(gpus: list[FileLock]) -> int:
    while True:
        for number, lock in enumerate(gpus):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number
        time.sleep(_POLL_S)
