"""Pixels as torch tensors, decoded on the device that will use them. The only file here that imports torch, and late.

On a GPU, cuCIM decodes into device memory and torch takes the same memory over; nothing passes through the host.
cuCIM's own default plug-in is used; ENABLE_CUSLIDE2=1 in the environment, set before the start, selects its
nvImageCodec one.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from muse_core.errors import ConfigError, SlideReadError
from muse_core.slide.cucim_reader import CucimReader
from muse_core.slide.resample import Grid, Window

if TYPE_CHECKING:
    from muse_core.slide.slide import Slide

_AREA_FROM = 1.25  # as in resample: reductions from here on average areas
_CUBIC_A = -0.75  # the cubic that OpenCV's resize uses, so that both ways give the same picture
_CHECK_PX = 256
_MAX_DIFFERENCE = 2.0  # mean absolute grey levels between a GPU's and a CPU's JPEG decoder


class TensorReader:
    """Reads regions of one slide as (H, W, 3) uint8 RGB tensors on one device."""

    def __init__(self, slide: "Slide", device: str) -> None:
        """Check the device, and on a GPU that it decodes what the CPU does.

        Args:
            slide: an open slide.
            device: "cpu", "cuda" or "cuda:N".

        Raises:
            ConfigError: torch cannot use the device.
        """
        self._slide = slide
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {device!r}: torch finds no GPU; use --device cpu, or see `muse doctor`")
        self._gpu = self._open_gpu() if self._device.type == "cuda" and slide.info.reader == "cucim" else None

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether pixels are decoded in device memory rather than copied there."""
        return self._gpu is not None

    def read_window(self, window: Window, grid: Grid) -> torch.Tensor:
        """The level pixels of a window, (height, width, 3) uint8 on the device; white outside the image."""
        if self._gpu is not None and window.lies_in(self._slide.info.levels[grid.level]):
            pixels = self._gpu.read_on(
                str(self._device), (window.x, window.y), window.width, window.height, level=grid.level
            )
            return torch.as_tensor(pixels, device=self._device)
        host = self._slide.read_level(window.x, window.y, window.width, window.height, level=grid.level)
        return torch.from_numpy(np.ascontiguousarray(host)).to(self._device)

    def read_windows(self, windows: Sequence[Window], grid: Grid) -> Iterator[torch.Tensor]:
        """The same for many windows, in order; on a GPU by the batch loader where all are of one size and inside."""
        gpu, level = self._gpu, self._slide.info.levels[grid.level]
        alike = len(windows) > 1 and len({(one.width, one.height) for one in windows}) == 1
        if gpu is None or not alike or not all(one.lies_in(level) for one in windows):
            for window in windows:
                yield self.read_window(window, grid)
            return
        corners = [(one.x, one.y) for one in windows]
        size = (windows[0].width, windows[0].height)
        for pixels in gpu.read_many_on(str(self._device), corners, *size, level=grid.level):
            # The loader writes the next region into the same memory.
            yield torch.as_tensor(pixels, device=self._device).reshape(size[1], size[0], 3).clone()

    def close(self) -> None:
        """Close the GPU's handle."""
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _open_gpu(self) -> CucimReader | None:
        """A handle that decodes on the GPU; None where its pixels are not those of the CPU."""
        reader = CucimReader(self._slide.info.path)
        level = self._slide.info.levels[0]
        width, height = min(_CHECK_PX, level.width), min(_CHECK_PX, level.height)
        corner = ((level.width - width) // 2, (level.height - height) // 2)
        try:
            expected = self._slide.read_level(*corner, width, height).astype(np.int16)
            pixels = reader.read_on(str(self._device), corner, width, height, level=0)
            found = torch.as_tensor(pixels, device=self._device).cpu().numpy()
        except SlideReadError:
            reader.close()
            return None
        if found.shape != expected.shape or np.abs(found - expected).mean() > _MAX_DIFFERENCE:
            reader.close()
            return None
        return reader


def resample_tensor(source: torch.Tensor, grid: Grid, window: Window, width_px: int, height_px: int) -> torch.Tensor:
    """`resample` for tensors, in the same frame: one weight matrix an axis, exact for any float origin and step.

    Args:
        source: (window.height, window.width, 3) uint8.
        grid: the scale.
        window: where `source` lies.
        width_px: output width.
        height_px: output height.

    Returns:
        (height_px, width_px, 3) uint8 on the source's device.
    """
    if grid.step_x == grid.step_y == 1.0 and window.origin_x == window.origin_y == 0.0:
        return source
    down = _weights(window.origin_y, grid.step_y, height_px, source.shape[0], source.device)
    across = _weights(window.origin_x, grid.step_x, width_px, source.shape[1], source.device)
    pixels = source.to(torch.float32)
    pixels = (down @ pixels.flatten(1)).reshape(height_px, -1, 3)  # (h, w * 3) -> (H, w, 3)
    pixels = torch.einsum("vw,hwc->hvc", across, pixels)  # (H, W, 3)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _weights(origin: float, step: float, length_px: int, source_px: int, device: torch.device) -> torch.Tensor:
    """(length_px, source_px) float32 weights of the source px for each output px; rows sum to 1."""
    # Built in float64: positions reach thousands and their fractions matter.
    output = torch.arange(length_px, dtype=torch.float64, device=device)[:, None]
    pixel = torch.arange(source_px, dtype=torch.float64, device=device)
    if step >= _AREA_FROM:
        left = origin + output * step
        weights = (torch.minimum(left + step, pixel + 1) - torch.maximum(left, pixel)).clamp_(min=0)
    else:
        weights = _cubic(origin + (output + 0.5) * step - (pixel + 0.5))
    return (weights / weights.sum(1, keepdim=True)).to(torch.float32)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Cubic convolution of |distance| in px.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4 and 11.
    """
    d = distance.abs()
    inner = (_CUBIC_A + 2) * d**3 - (_CUBIC_A + 3) * d**2 + 1
    outer = _CUBIC_A * (d**3 - 5 * d**2 + 8 * d - 4)
    return torch.where(d < 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))
