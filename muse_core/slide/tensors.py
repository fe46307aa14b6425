"""Pixels as torch tensors, decoded on the device that will use them. The only file here that imports torch, and late.

On a GPU, cuCIM decodes into device memory and torch takes the same memory over; nothing passes through the host.
cuCIM's own default plug-in is used; ENABLE_CUSLIDE2=1 in the environment, set before the start, selects its
nvImageCodec one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from muse_core.errors import ConfigError, SlideReadError
from muse_core.slide.cucim_reader import CucimReader
from muse_core.slide.info import SlideInfo
from muse_core.slide.levels_reader import own_levels
from muse_core.slide.resample import AREA_FROM, Grid, Window, filters_differ, shift_kernel
from muse_core.slide.tiff_pages import TiffPage

_RESIZE_CUBIC_A = -0.75  # of the cubic that OpenCV's resize uses
_CUBIC_REACH = 2  # px
_CHECK_PX = 256
_MAX_DIFFERENCE = 2.0  # mean absolute grey levels between a GPU's and a CPU's JPEG decoder


class ReadLevel(Protocol):
    """Level pixels on the host."""

    def __call__(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB; white outside the image."""
        ...


class TensorReader:
    """Reads regions of one slide as (H, W, 3) uint8 RGB tensors on one device."""

    def __init__(self, info: SlideInfo, pages: Sequence[TiffPage], read_level: ReadLevel, device: str) -> None:
        """Check the device, and on a GPU that it decodes what the CPU does.

        Args:
            info: of the open slide.
            pages: the page of each of its levels where it is a TIFF of such, else none.
            read_level: its level pixels, (H, W, 3) uint8 RGB, where the GPU does not decode them.
            device: "cpu", "cuda" or "cuda:N".

        Raises:
            ConfigError: torch cannot use the device.
        """
        self._info, self._pages, self._read_level = info, pages, read_level
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {device!r}: torch finds no GPU; use --device cpu, or see `muse doctor`")
        self._own_levels: tuple[int | None, ...] = ()  # the GPU handle's number of each level
        self._gpu = self._open_gpu() if self._device.type == "cuda" and info.decodes_on_gpu else None

    def read_window(self, window: Window, grid: Grid) -> torch.Tensor:
        """The level pixels of a window, (height, width, 3) uint8 on the device; white outside the image."""
        own = self._own_levels[grid.level] if self._gpu is not None else None
        if self._gpu is not None and own is not None and window.lies_in(self._info.levels[grid.level]):
            pixels = self._gpu.read_on(str(self._device), (window.x, window.y), window.width, window.height, level=own)
            return torch.as_tensor(pixels, device=self._device)
        host = self._read_level(window.x, window.y, window.width, window.height, level=grid.level)
        return torch.from_numpy(np.ascontiguousarray(host)).to(self._device)

    def read_windows(self, windows: Sequence[Window], grid: Grid) -> Iterator[torch.Tensor]:
        """The same for many windows, in order; on a GPU by the batch loader where all are of one size and inside."""
        gpu, level = self._gpu, self._info.levels[grid.level]
        own = self._own_levels[grid.level] if gpu is not None else None
        alike = len(windows) > 1 and len({(one.width, one.height) for one in windows}) == 1
        if gpu is None or own is None or not alike or not all(one.lies_in(level) for one in windows):
            for window in windows:
                yield self.read_window(window, grid)
            return
        corners = [(one.x, one.y) for one in windows]
        size = (windows[0].width, windows[0].height)
        for pixels in gpu.read_many_on(str(self._device), corners, *size, level=own):
            # The loader writes the next region into the same memory.
            yield torch.as_tensor(pixels, device=self._device).reshape(size[1], size[0], 3).clone()

    def close(self) -> None:
        """Close the GPU's handle."""
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _open_gpu(self) -> CucimReader | None:
        """A handle that decodes on the GPU; None where its pixels are not those of the CPU, or it lacks a level."""
        try:
            reader = CucimReader(self._info.path, self._pages)
        except SlideReadError:
            return None
        self._own_levels = own_levels([page.size for page in self._pages], reader.source)
        if reader.has_empty_tiles or None in self._own_levels:
            reader.close()
            return None
        level = self._info.levels[0]
        width, height = min(_CHECK_PX, level.width), min(_CHECK_PX, level.height)
        corner = ((level.width - width) // 2, (level.height - height) // 2)
        try:
            expected = self._read_level(*corner, width, height).astype(np.int16)
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
    """`resample` for tensors: its steps, filters and roundings one by one, so that both give the same picture.

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
    whole_x, whole_y = max(int(grid.step_x), 1), max(int(grid.step_y), 1)
    pixels = _averaged(source.to(torch.float32), whole_x, whole_y)
    pixels = _from_origin(pixels, window.origin_x / whole_x, window.origin_y / whole_y)
    rest_x, rest_y = grid.step_x / whole_x, grid.step_y / whole_y
    if filters_differ(rest_x, rest_y):
        pixels = _scaled(pixels, rest_x, 1.0, (width_px, pixels.shape[0]))
        pixels = _scaled(pixels, 1.0, rest_y, (width_px, height_px))
    else:
        pixels = _scaled(pixels, rest_x, rest_y, (width_px, height_px))
    return pixels[:height_px, :width_px].to(torch.uint8).contiguous()


def _averaged(pixels: torch.Tensor, whole_x: int, whole_y: int) -> torch.Tensor:
    """Averages of blocks of whole pixels."""
    if whole_x == whole_y == 1:
        return pixels
    height, width = pixels.shape[0] // whole_y, pixels.shape[1] // whole_x
    blocks = pixels[: height * whole_y, : width * whole_x].reshape(height, whole_y, width, whole_x, 3)
    if whole_x == whole_y == 2:
        return (blocks.mean(dim=(1, 3)) + 0.5).floor_()  # OpenCV halves in integers, which rounds 0.5 up
    return _to_grey_levels(blocks.mean(dim=(1, 3)))


def _from_origin(pixels: torch.Tensor, origin_x: float, origin_y: float) -> torch.Tensor:
    """The pixels right of and below a point, shifted by the fraction of a pixel that it lies off the lattice."""
    whole_x, whole_y = math.floor(origin_x), math.floor(origin_y)
    part_x, part_y = origin_x - whole_x, origin_y - whole_y
    if part_x or part_y:
        # Mirrored at the rim without repeating it, as OpenCV's filters do.
        height, width = pixels.shape[:2]
        rows = _mirrored(height, pixels.device)
        columns = _mirrored(width, pixels.device)
        padded = pixels[rows][:, columns]
        down, across = shift_kernel(part_y).tolist(), shift_kernel(part_x).tolist()
        padded = torch.stack([weight * padded[at : at + height] for at, weight in enumerate(down)]).sum(0)
        padded = torch.stack([weight * padded[:, at : at + width] for at, weight in enumerate(across)]).sum(0)
        pixels = _to_grey_levels(padded)
    return pixels[whole_y:, whole_x:]


def _mirrored(length_px: int, device: torch.device) -> torch.Tensor:
    """Where the px -1 .. length + 1 are taken from."""
    index = torch.arange(-1, length_px + 2, device=device).abs()
    return torch.minimum(index, 2 * (length_px - 1) - index)


def _scaled(pixels: torch.Tensor, step_x: float, step_y: float, size_px: tuple[int, int]) -> torch.Tensor:
    """Steps below 2, one weight matrix an axis; the output's origin is that of `pixels`."""
    if step_x == step_y == 1.0:
        return pixels
    by_area = max(step_x, step_y) >= AREA_FROM
    down = _weights(step_y, size_px[1], pixels.shape[0], by_area=by_area, device=pixels.device)
    across = _weights(step_x, size_px[0], pixels.shape[1], by_area=by_area, device=pixels.device)
    width = pixels.shape[1]
    pixels = (down @ pixels.flatten(1)).reshape(size_px[1], width, 3)  # (h, w * 3) -> (H, w, 3)
    return _to_grey_levels(torch.einsum("vw,hwc->hvc", across, pixels))  # (H, W, 3)


def _to_grey_levels(pixels: torch.Tensor) -> torch.Tensor:
    """What storing as uint8 does, kept as float32."""
    return pixels.round_().clamp_(0, 255)


def _weights(step: float, length_px: int, source_px: int, *, by_area: bool, device: torch.device) -> torch.Tensor:
    """(length_px, source_px) float32 weights of the source px for each output px; rows sum to 1."""
    # Built in float64: positions reach thousands and their fractions matter.
    output = torch.arange(length_px, dtype=torch.float64, device=device)[:, None]
    pixel = torch.arange(-_CUBIC_REACH, source_px + _CUBIC_REACH, dtype=torch.float64, device=device)
    if by_area:
        left = output * step
        weights = (torch.minimum(left + step, pixel + 1) - torch.maximum(left, pixel)).clamp_(min=0)
    else:
        weights = _cubic((output + 0.5) * step - (pixel + 0.5))
    inside = weights[:, _CUBIC_REACH:-_CUBIC_REACH]
    inside[:, 0] += weights[:, :_CUBIC_REACH].sum(1)  # beyond the rim its pixels repeat, as in OpenCV's resize
    inside[:, -1] += weights[:, -_CUBIC_REACH:].sum(1)
    return (inside / inside.sum(1, keepdim=True)).to(torch.float32)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Cubic convolution of |distance| in px.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4 and 11.
    """
    d, a = distance.abs(), _RESIZE_CUBIC_A
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return torch.where(d < 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))
