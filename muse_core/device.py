"""Where pixels are decoded and networks run: `auto` to a device that answers."""

from pathlib import Path

from muse_core.errors import ConfigError

DEVICES = ("cpu", "cuda")


def resolve_device(device: str) -> str:
    """`auto` to `cuda` where a GPU answers, else to `cpu`; `cpu` and `cuda` as they are.

    Raises:
        ConfigError: the name is unknown, or `cuda` is asked for and none answers.
    """
    if device not in ("auto", *DEVICES):
        raise ConfigError(f"--device {device}: needs auto, {' or '.join(DEVICES)}")
    if device == "cpu":
        return device
    found = _has_cuda()
    if device == "cuda" and not found:
        raise ConfigError("--device cuda: no CUDA device answers here; use --device cpu, or see muse doctor")
    return "cuda" if found else "cpu"


def _has_cuda() -> bool:
    # Importing torch takes seconds and hundreds of MB; without the driver there is nothing to ask it.
    if not Path("/proc/driver/nvidia/version").exists():
        return False
    import torch

    return bool(torch.cuda.is_available())


def gpu_count() -> int:
    """CUDA devices that answer; 0 where there is no driver."""
    if not _has_cuda():
        return 0
    import torch

    return int(torch.cuda.device_count())
