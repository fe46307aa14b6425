"""Reading through cuCIM: the fast way, for the TIFF kinds it decodes.

Three traps are handled here. Locations are level-0 px whatever the level, and a list of plain ints is the one form of
them that is never refused. The batch loader hands out one buffer again and again. And a tile whose bytes are broken
raises nothing: the pixels are whatever the memory held, so every tile's bytes are looked at once before cuCIM may
decode them.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.pixels import Pixels, to_rgb
from muse_core.slide.info import Mpp
from muse_core.slide.quiet import quiet_output
from muse_core.slide.reader import Corner, Source, make_levels
from muse_core.slide.tiff_pages import JPEG, PARSE_ERRORS, TiffLevel, read_tiff_summary
from muse_core.slide.tile_check import TileCheck

if TYPE_CHECKING:
    from cucim.clara import CuImage

# What it was seen to decode, in tiles of 3 x 8 bits in one plane: TIFF compression with the predictors that go with it.
# Deflate, Zstandard and LZMA with a predictor kill the process in its constructor; others open and fail.
_PREDICTORS = {1: (1,), 5: (1, 2), JPEG: (1,), 8: (1,), 32946: (1,), 33003: (1,), 33005: (1,)}
_PHOTOMETRIC = {JPEG: (2, 6), 33003: (2, 6), 33005: (2, 6)}  # else 2, RGB
_REGIONS_AHEAD = 2  # decoded before they are asked for, a loader thread


class CucimReader:
    """One cuCIM handle, decoding on the CPU."""

    name = "cucim"

    def __init__(self, path: Path, *, read_threads: int = 1) -> None:
        """Open the file.

        Args:
            path: the slide.
            read_threads: threads that the batch loader decodes with.

        Raises:
            SlideReadError: cuCIM is not installed, or does not know the file.
        """
        self._read_threads = read_threads
        # Before its constructor: some files kill the process there.
        if refusal := _refusal(path):
            raise SlideReadError(f"cucim: {refusal}")
        try:
            with quiet_output():
                self._image = _cu_image_class()(str(path))
                self.source, self._downsamples = _describe(self._image)
        except (ImportError, ValueError, RuntimeError, TypeError, OSError) as error:
            raise SlideReadError(f"cucim: {error}") from error
        self._check = TileCheck(path, self.source.levels)
        if self._check.is_blind:
            raise SlideReadError("cucim: cannot tell the tiles of its levels")

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the level, (height, width, 3); see `Reader.read`."""
        region = self.read_on("cpu", corner, width, height, level=level)
        return to_rgb(np.asarray(region))

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """In order through the batch loader, a few regions ahead; see `Reader.read_many`."""
        for region in self.read_many_on("cpu", corners, width, height, level=level):
            # The loader writes the next region into the same memory.
            yield to_rgb(np.asarray(region).reshape(height, width, -1)).copy()

    def read_on(self, device: str, corner: Corner, width: int, height: int, *, level: int) -> "CuImage":
        """A rectangle decoded in the memory of "cpu" or "cuda[:N]", behind the array interface of that memory."""
        self._check.region(corner, width, height, level=level)
        try:
            return self._image.read_region(self._locations([corner], level), (width, height), level, device=device)
        except (ValueError, RuntimeError) as error:
            raise SlideReadError(f"cucim: {error}") from error

    def read_many_on(
        self, device: str, corners: Sequence[Corner], width: int, height: int, *, level: int
    ) -> Iterator["CuImage"]:
        """The same for many corners, (1, height, width, 3) each; the memory is reused, so copy before the next."""
        for corner in corners:
            self._check.region(corner, width, height, level=level)
        try:
            yield from self._image.read_region(
                self._locations(corners, level),
                (width, height),
                level,
                num_workers=self._read_threads,
                batch_size=1,
                prefetch_factor=_REGIONS_AHEAD,
                device=device,
            )
        except (ValueError, RuntimeError) as error:
            raise SlideReadError(f"cucim: {error}") from error

    def read_associated(self, name: str) -> Pixels:
        """The label, macro, ... image."""
        try:
            return to_rgb(np.asarray(self._image.associated_image(name)))
        except (ValueError, RuntimeError) as error:
            raise SlideReadError(f"cucim: {error}") from error

    def close(self) -> None:
        """Close the handle."""
        self._image.close()

    def _locations(self, corners: Sequence[Corner], level: int) -> list[int]:
        """Level px to what cuCIM divides back to them: the middle of a pixel survives its single-precision division."""
        scale = self._downsamples[level]
        middle = 0.5 * scale if level else 0.0
        return [int(value * scale + middle) for corner in corners for value in corner]


def _refusal(path: Path) -> str | None:
    """Why cuCIM must not be given a file, by what the file says of itself; None where it may."""
    try:
        summary = read_tiff_summary(path)
    except PARSE_ERRORS as error:
        return str(error)
    words = (_level_refusal(level) for level in summary.levels)
    others = (_page_refusal(page) for page in summary.pages)
    return next((found for found in (*words, *others) if found), None)


def _level_refusal(page: TiffLevel) -> str | None:
    """Why it does not decode a level, or None."""
    if refusal := _page_refusal(page):
        return refusal
    if not page.is_tiled:
        return "decodes no strips"
    if (page.channels, page.bits) != (3, 8) or not page.is_plain:
        planes = "in one plane" if page.is_plain else "in several planes"
        return f"decodes no {page.channels} x {page.bits} bits a pixel {planes}"
    if page.compression not in _PREDICTORS or page.photometric not in _PHOTOMETRIC.get(page.compression, (2,)):
        return f"decodes no compression {page.compression} with photometric {page.photometric}"
    return None


def _page_refusal(page: TiffLevel) -> str | None:
    """Why no page of a file may be like this one, or None."""
    if page.predictor not in _PREDICTORS.get(page.compression, (1,)):
        return f"does not bear compression {page.compression} with predictor {page.predictor}"
    return None


def _cu_image_class() -> "type[CuImage]":
    """The class that reads slides, imported late: it is not on every platform and prints where there is no GPU driver.

    cuCIM's top package imports CuPy wherever that is installed, half a second and 200 MB a process, for the sake of
    image processing that is not used here. It does without, so it is told that there is none.
    """
    # cuFile, where PyTorch has brought it along, would leave a log of its complaints in the current folder.
    os.environ.setdefault("CUFILE_LOGFILE_PATH", os.devnull)
    hide = "cupy" not in sys.modules and "cucim" not in sys.modules
    if hide:
        sys.modules["cupy"] = None  # type: ignore[assignment]  # Python's own way to say that a module is not there
    try:
        from cucim.clara import CuImage
    finally:
        if hide:
            del sys.modules["cupy"]
    found: type[CuImage] = CuImage
    return found


def _describe(image: "CuImage") -> tuple[Source, tuple[float, ...]]:
    if image.dims != "YXC" or image.dtype.bits != 8:
        raise ValueError(f"dimensions {image.dims} of {image.dtype.bits} bits; 8-bit RGB is needed")
    levels = image.resolutions
    metadata = json.loads(image.metadata) if isinstance(image.metadata, str) else dict(image.metadata)
    candidates = []
    aperio = metadata.get("aperio", {}).get("MPP")
    if aperio:
        candidates.append(Mpp(float(aperio), float(aperio), "aperio.MPP"))
    elif "aperio" not in metadata and image.spacing_units()[:2] == ["micrometer", "micrometer"]:
        # For Aperio the spacing is 1.0 whatever the slide. The order is that of dims: y first.
        y, x = image.spacing()[:2]
        candidates.append(Mpp(float(x), float(y), "cucim.spacing"))
    source = Source(
        vendor="aperio" if "aperio" in metadata else "tiff",
        levels=make_levels(levels["level_dimensions"], levels["level_tile_sizes"]),
        mpp_candidates=tuple(candidates),
        associated=tuple(sorted(image.associated_images)),
    )
    return source, tuple(levels["level_downsamples"])
