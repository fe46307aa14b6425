"""An open slide: RGB pixels at a level or at any µm/px, in level-0 coordinates."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from muse_core.errors import ConfigError, MppError, SlideReadError
from muse_core.images.pixels import WHITE, Pixels
from muse_core.slide.choose import Choice, choose_reader
from muse_core.slide.info import Mpp, SlideInfo
from muse_core.slide.jpeg_tiles import JpegTiles, open_jpeg_tiles
from muse_core.slide.mpp import mpp_notes, resolve_mpp
from muse_core.slide.regions import Regions
from muse_core.slide.resample import Grid, Window, grid_for, resample, window_for
from muse_core.slide.tiff_pages import TiffPage

if TYPE_CHECKING:
    import torch

    from muse_core.slide.tensors import TensorReader

_MAX_SOURCE_PX = 1 << 24  # level px held at once while reducing; 48 MiB of RGB
_BLOCK_SOURCE_PX = 2048  # side of the level rectangle that one block of a large output is made from


def open_slide(
    path: Path | str,
    *,
    mpp_override: float | None = None,
    reader: str = "auto",
    device: str = "cpu",
    tolerate_missing_mpp: bool = False,
    read_threads: int = 1,
    scene: int | None = None,
) -> "Slide":
    """Open a slide with the reader that serves it best, checked on sample regions.

    Args:
        path: the slide file.
        mpp_override: µm/px of level 0, both axes, instead of what the file says.
        reader: "auto", or "cucim", "openslide", "tifffile" or, for PNG and JPEG images, "pillow".
        device: "cpu" or "cuda": where the tensor methods decode.
        tolerate_missing_mpp: open a slide of unknown µm/px all the same; its mpp is then NaN and only pixels of levels,
            the thumbnail and associated images can be read.
        read_threads: threads that cuCIM's batch loader decodes with in `read_regions`.
        scene: which of several pictures or planes in the file, 1 for the first; None for the largest.

    Returns:
        The slide; a context manager.

    Raises:
        SlideReadError: reason not_found or unreadable.
        MppError: reason mpp_missing, mpp_conflict or mpp_invalid.
        ConfigError: an unknown reader, or a scene that is not there.
    """
    path = Path(path)
    choice = choose_reader(path, reader, read_threads=read_threads, scene=scene)
    try:
        mpp = resolve_mpp(path, choice.source.mpp_candidates, mpp_override)
    except MppError as error:
        if not (tolerate_missing_mpp and error.reason in ("mpp_missing", "mpp_conflict")):
            choice.handles.close()
            raise
        mpp = Mpp(math.nan, math.nan, "missing")
    return Slide(path, choice, mpp, device=device, scene=scene)


class Slide:
    """Pixels of one slide. Safe to use from several threads; close it, or use it in a `with` block."""

    def __init__(self, path: Path, choice: Choice, mpp: Mpp, *, device: str = "cpu", scene: int | None = None) -> None:
        """Made by `open_slide`."""
        self._handles = choice.handles
        self._state = choice.state
        self._pages = choice.pages
        self._device = device
        self._tensors: TensorReader | None = None
        self.info = SlideInfo(
            path=path,
            reader=choice.name,
            reader_check=choice.check,
            vendor=choice.vendor,
            mpp=mpp,
            levels=choice.source.levels,
            bounds_level0=choice.source.bounds_level0,
            associated=choice.source.associated,
            scene=scene,
            decodes_on_gpu=choice.decodes_on_gpu,
            judgement=(*choice.notes, *mpp_notes(choice.source.mpp_candidates, mpp)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def device(self) -> str:
        """Where the tensor methods decode."""
        return self._device

    def close(self) -> None:
        """Close every handle."""
        if self._tensors is not None:
            self._tensors.close()
        self._handles.close()

    def read_level(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        """Pixels of one level as they are.

        Args:
            x: left column in px of that level; may lie outside the image.
            y: top row in px of that level.
            width: px of that level.
            height: px of that level.
            level: 0 is the finest.

        Returns:
            (height, width, 3) uint8 RGB; white outside the image.

        Raises:
            SlideReadError: the region cannot be decoded; other regions still can.
            SlideChangedError: the file is not the one any more that was opened.
        """
        size = self.info.levels[level]
        left, top = max(x, 0), max(y, 0)
        inner_width, inner_height = min(x + width, size.width) - left, min(y + height, size.height) - top
        if inner_width <= 0 or inner_height <= 0:
            return np.full((height, width, 3), WHITE, np.uint8)
        try:
            inner = self._handles.read(lambda reader: reader.read((left, top), inner_width, inner_height, level=level))
        except SlideReadError as error:
            self.check_unchanged()
            raise self._region_error(error, (left, top, inner_width, inner_height), level) from error
        self.check_unchanged()
        if (inner_width, inner_height) == (width, height):
            return inner
        padded = np.full((height, width, 3), WHITE, np.uint8)
        padded[top - y : top - y + inner_height, left - x : left - x + inner_width] = inner
        return padded

    def read_region(self, x_level0: float, y_level0: float, width_px: int, height_px: int, *, mpp: float) -> Pixels:
        """Pixels at any µm/px: antialiased, and exact in position.

        Output px (u, v), continuous, lies at level-0 (x_level0, y_level0) + (u, v) * mpp / slide mpp, each axis by its
        own mpp. Where `mpp` is that of a level and the corner lies on its lattice, the level's own pixels come back
        untouched.

        Args:
            x_level0: left edge in level-0 px, any float.
            y_level0: top edge in level-0 px, any float.
            width_px: output width.
            height_px: output height.
            mpp: µm per output px, any positive float; finer than level 0 enlarges.

        Returns:
            (height_px, width_px, 3) uint8 RGB; white outside the image.

        Raises:
            SlideReadError: the region cannot be decoded.
            MppError: the slide has no mpp.
        """
        scale_x, scale_y = self._scales(mpp)
        return self._read_scaled((x_level0, y_level0), (width_px, height_px), (scale_x, scale_y))

    def read_regions(
        self, corners_level0: Sequence[tuple[float, float]], width_px: int, height_px: int, *, mpp: float
    ) -> Regions:
        """`read_region` for many corners of one size, in their order, decoded ahead by cuCIM's batch loader.

        Args:
            corners_level0: left and top edges in level-0 px.
            width_px: output width.
            height_px: output height.
            mpp: µm per output px.

        Returns:
            An iterator of (height_px, width_px, 3) uint8 RGB. A region that cannot be decoded raises SlideReadError,
            and the following `next` goes on with the one after it.
        """
        grid = grid_for(self.info.levels, *self._scales(mpp))
        size_px = (width_px, height_px)
        if not self._in_one_read(size_px, grid):
            raise ConfigError(
                f"regions of {width_px}x{height_px} px at {mpp} µm/px need more than {_MAX_SOURCE_PX} px of level "
                f"{grid.level} each; read them with read_region"
            )
        return Regions(
            self._handles,
            [self._window(corner, size_px, grid) for corner in corners_level0],
            level=grid.level,
            level_size=self.info.levels[grid.level],
            read_one=lambda window: self._read_window(window, grid),
            finish=lambda source, window: self._finished(source, grid, window, size_px),
        )

    def check_unchanged(self) -> None:
        """Compare the slide's files with those that were opened; every read does.

        Raises:
            SlideChangedError: one was written to, replaced or taken away meanwhile.
        """
        self._state.check()

    def read_level_tensor(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> "torch.Tensor":
        """`read_level` as a (height, width, 3) uint8 tensor on the slide's device.

        Raises:
            ConfigError: torch cannot use the device.
            SlideReadError: the region cannot be decoded.
        """
        window = Window(x, y, width, height, 0.0, 0.0)
        return self._tensor_reader().read_window(window, Grid(level, 1.0, 1.0))

    def read_region_tensor(
        self, x_level0: float, y_level0: float, width_px: int, height_px: int, *, mpp: float
    ) -> "torch.Tensor":
        """`read_region` as a torch tensor on the slide's device, decoded and resampled there.

        Returns:
            (height_px, width_px, 3) uint8 RGB.
        """
        return next(self.read_regions_tensor([(x_level0, y_level0)], width_px, height_px, mpp=mpp))

    def read_regions_tensor(
        self, corners_level0: Sequence[tuple[float, float]], width_px: int, height_px: int, *, mpp: float
    ) -> Iterator["torch.Tensor"]:
        """`read_region_tensor` for many corners of one size, in their order.

        Raises:
            ConfigError: torch cannot use the device.
            SlideReadError: a region cannot be decoded; the iteration ends there.
        """
        # Late: torch takes seconds to import, and the data stages do without it.
        from muse_core.slide.tensors import resample_tensor

        reader = self._tensor_reader()
        grid = grid_for(self.info.levels, *self._scales(mpp))
        windows = [self._window(corner, (width_px, height_px), grid) for corner in corners_level0]
        for window, source in zip(windows, reader.read_windows(windows, grid), strict=True):
            self.check_unchanged()
            yield resample_tensor(source, grid, window, width_px, height_px)

    def _tensor_reader(self) -> "TensorReader":
        # Late, as above.
        from muse_core.slide.tensors import TensorReader

        if self._tensors is None:
            self._tensors = TensorReader(self.info, self._pages, self.read_level, self._device)
        return self._tensors

    def read_overview(self, mpp: float) -> Pixels:
        """The whole slide at `mpp` µm/px, from the coarsest level that is fine enough, block by block.

        Returns:
            (ceil(height), ceil(width), 3) uint8 RGB; output px (u, v) lies at level-0 (u, v) * mpp / slide mpp.
        """
        return self._read_whole(self._scales(mpp))

    def thumbnail(self, max_side_px: int) -> Pixels:
        """The whole slide with its longer side at most `max_side_px`, the same scale along both axes; needs no mpp.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        scale = max(self.info.width_level0, self.info.height_level0) / max_side_px
        return self._read_whole((scale, scale))

    def associated_image(self, name: str) -> Pixels:
        """The label, macro, ... image, (H, W, 3) uint8 RGB.

        Raises:
            SlideReadError: the slide has none of that name, or it cannot be decoded.
        """
        if name not in self.info.associated:
            known = ", ".join(self.info.associated) or "none"
            raise SlideReadError(f"{self.info.path}: no associated image {name!r} (there are: {known})")
        return self._handles.read(lambda reader: reader.read_associated(name))

    def jpeg_tiles(self, level: int = 0) -> JpegTiles | None:
        """The compressed tiles of a level that is stored as JPEG tiles in a TIFF, else None. The caller closes it."""
        return open_jpeg_tiles(self.info.path, self._pages[level]) if self._pages else None

    @property
    def pages(self) -> tuple[TiffPage, ...]:
        """The page of each level of a TIFF whose pages are whole pictures and upright; else none."""
        return self._pages

    def _scales(self, mpp: float) -> tuple[float, float]:
        """Level-0 px per output px along x and y."""
        slide = self.info.mpp
        if math.isnan(slide.x):
            raise MppError(f"{self.info.path}: no µm/px is known, so nothing can be read at {mpp} µm/px; give --mpp")
        if not (math.isfinite(mpp) and mpp > 0):
            raise MppError(
                f"{self.info.path}: asked for {mpp} µm/px; a positive number is needed", reason="mpp_invalid"
            )
        return mpp / slide.x, mpp / slide.y

    def _read_scaled(
        self, corner: tuple[float, float], size_px: tuple[int, int], scales: tuple[float, float]
    ) -> Pixels:
        grid = grid_for(self.info.levels, *scales)
        if self._in_one_read(size_px, grid):
            return self._read_grid(corner, size_px, grid)
        output = np.empty((size_px[1], size_px[0], 3), np.uint8)
        block_width = max(1, int(_BLOCK_SOURCE_PX / grid.step_x))
        block_height = max(1, int(_BLOCK_SOURCE_PX / grid.step_y))
        for v in range(0, size_px[1], block_height):
            for u in range(0, size_px[0], block_width):
                block = (min(block_width, size_px[0] - u), min(block_height, size_px[1] - v))
                at = (corner[0] + u * scales[0], corner[1] + v * scales[1])
                output[v : v + block[1], u : u + block[0]] = self._read_grid(at, block, grid)
        return output

    def _in_one_read(self, size_px: tuple[int, int], grid: Grid) -> bool:
        return size_px[0] * grid.step_x * size_px[1] * grid.step_y <= _MAX_SOURCE_PX

    def _read_grid(self, corner: tuple[float, float], size_px: tuple[int, int], grid: Grid) -> Pixels:
        window = self._window(corner, size_px, grid)
        return resample(self._read_window(window, grid), grid, window, *size_px)

    def _read_window(self, window: Window, grid: Grid) -> Pixels:
        return self.read_level(window.x, window.y, window.width, window.height, level=grid.level)

    def _finished(self, source: Pixels, grid: Grid, window: Window, size_px: tuple[int, int]) -> Pixels:
        self.check_unchanged()
        return resample(source, grid, window, *size_px)

    def _window(self, corner: tuple[float, float], size_px: tuple[int, int], grid: Grid) -> Window:
        level = self.info.levels[grid.level]
        return window_for(grid, corner[0] / level.downsample_x, corner[1] / level.downsample_y, *size_px)

    def _read_whole(self, scales: tuple[float, float]) -> Pixels:
        width_px = max(1, math.ceil(self.info.width_level0 / scales[0] - 1e-6))
        height_px = max(1, math.ceil(self.info.height_level0 / scales[1] - 1e-6))
        return self._read_scaled((0.0, 0.0), (width_px, height_px), scales)

    def _region_error(self, error: SlideReadError, box: tuple[int, int, int, int], level: int) -> SlideReadError:
        x, y, width, height = box
        return SlideReadError(
            f"{self.info.path}: region x={x} y={y} {width}x{height} px of level {level} cannot be read: {error}",
            reason=error.reason,
        )
