"""How busy a GPU was."""

from threading import Event, Thread

_SAMPLE_S = 0.25


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
        import torch

        while not self._ended.wait(_SAMPLE_S):
            try:
                self._samples.append(torch.cuda.utilization(torch.device(self._device)) / 100)
            except (ImportError, RuntimeError):  # the driver's Python package is not installed, or it does not answer
                return
