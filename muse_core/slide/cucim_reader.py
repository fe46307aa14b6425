"""Reading through cuCIM: the fast way, for the TIFF kinds it decodes.

Three traps are handled here. Locations are level-0 px whatever the level, and a list of plain ints is the one form of
them that is never refused. The batch loader hands out one buffer again and again. And a tile whose bytes are broken
raises nothing: the pixels are whatever the memory held, so every tile's bytes are looked at once before cuCIM may
decode them.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse_core.errors import SlideReadError
from muse_core.images.pixels import WHITE, Pixels, to_rgb
from muse_core.slide.page_pixels import codec_name, colours_name
from muse_core.slide.quiet import quiet_output
from muse_core.slide.reader import Corner, Source, make_levels
from muse_core.slide.tiff_pages import JPEG, RGB, YCBCR, TiffFacts, TiffPage
from muse_core.slide.tile_check import TileCheck

if TYPE_CHECKING:
    from cucim.clara import CuImage

# What it was seen to decode, in tiles of 3 x 8 bits in one plane: TIFF compression with the predictors that go with it.
# Deflate, Zstandard and LZMA with a predictor kill the process in its constructor; others open and fail.
_PREDICTORS = {1: (1,), 5: (1, 2), JPEG: (1,), 8: (1,), 32946: (1,), 33003: (1,), 33005: (1,)}
_PHOTOMETRIC = {JPEG: (RGB, YCBCR), 33003: (RGB, YCBCR), 33005: (RGB, YCBCR)}  # else RGB
_REGIONS_AHEAD = 2  # decoded before they are asked for, a loader thread


class CucimReader:
    """One cuCIM handle, decoding on the CPU."""

    name = "cucim"

    def __init__(self, path: Path, pages: Sequence[TiffPage], *, read_threads: int = 1) -> None:
        """Open the file. Some files kill the process here: ask `cucim_refusal` first.

        Args:
            path: the slide.
            pages: its levels as they were judged; cuCIM's own list may hold others, and those it lacks are not read.
            read_threads: threads that the batch loader decodes with.

        Raises:
            SlideReadError: cuCIM is not installed, or does not know the file.
        """
        self._read_threads = read_threads
        try:
            with quiet_output():
                self._image = _cu_image_class()(str(path))
                self.source, self._downsamples = _describe(self._image)
        except (ImportError, ValueError, RuntimeError, TypeError, OSError) as error:
            raise SlideReadError(f"cucim: {error}") from error
        by_size = {page.size: page for page in reversed(pages)}
        own = [by_size.get((level.width, level.height)) for level in self.source.levels]
        self._judged = {number: at for at, number in enumerate(n for n, page in enumerate(own) if page is not None)}
        self._check = TileCheck(path, [page for page in own if page is not None])
        self.has_empty_tiles = any(page is not None and page.has_empty_segments for page in own)

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the level, (height, width, 3); see `Reader.read`."""
        region = self.read_on("cpu", corner, width, height, level=level)
        return self._with_glass(to_rgb(np.asarray(region)), corner, level)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """In order through the batch loader, a few regions ahead; see `Reader.read_many`."""
        for corner, region in zip(corners, self.read_many_on("cpu", corners, width, height, level=level), strict=True):
            # The loader writes the next region into the same memory.
            pixels = to_rgb(np.asarray(region).reshape(height, width, -1)).copy()
            yield self._with_glass(pixels, corner, level)

    def read_on(self, device: str, corner: Corner, width: int, height: int, *, level: int) -> "CuImage":
        """A rectangle decoded in the memory of "cpu" or "cuda[:N]", behind the array interface of that memory."""
        self._look_at(corner, width, height, level)
        try:
            return self._image.read_region(self._locations([corner], level), (width, height), level, device=device)
        except (ValueError, RuntimeError) as error:
            raise SlideReadError(f"cucim: {error}") from error

    def read_many_on(
        self, device: str, corners: Sequence[Corner], width: int, height: int, *, level: int
    ) -> Iterator["CuImage"]:
        """The same for many corners, (1, height, width, 3) each; the memory is reused, so copy before the next."""
        for corner in corners:
            self._look_at(corner, width, height, level)
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

    def _look_at(self, corner: Corner, width: int, height: int, level: int) -> list[int]:
        """Check the tiles under a rectangle; those that were left out of the file."""
        if level not in self._judged:
            raise SlideReadError(f"cucim: its level {level} is none of the slide's")
        return self._check.region(corner, width, height, level=self._judged[level])

    def _with_glass(self, pixels: Pixels, corner: Corner, level: int) -> Pixels:
        """The pixels with tiles that were left out in white; cuCIM leaves there what the memory held."""
        if not self.has_empty_tiles:
            return pixels
        height, width = pixels.shape[:2]
        empty = self._look_at(corner, width, height, level)
        pixels = pixels.copy() if empty and not pixels.flags.writeable else pixels
        for tile in empty:
            left, top, right, bottom = self._check.place_of(tile, level=self._judged[level])
            x, y = max(left - corner[0], 0), max(top - corner[1], 0)
            pixels[y : max(bottom - corner[1], 0), x : max(right - corner[0], 0)] = WHITE
        return pixels

    def _locations(self, corners: Sequence[Corner], level: int) -> list[int]:
        """Level px to what cuCIM divides back to them: the middle of a pixel survives its single-precision division."""
        scale = self._downsamples[level]
        middle = 0.5 * scale if level else 0.0
        return [int(value * scale + middle) for corner in corners for value in corner]


def cucim_refusal(facts: TiffFacts, levels: Sequence[TiffPage]) -> str | None:
    """Why cuCIM must not be given a file, by what the file's tags say; None where it was seen to decode such.

    Args:
        facts: of the file.
        levels: the pages that are the slide.
    """
    if levels[0].orientation != 1:
        return f"does not apply orientation {levels[0].orientation}"
    words = [_level_refusal(page) for page in levels if page.is_tiled or page is levels[0]]
    # Its constructor looks at every page of the chain, whatever it shows; SubIFDs it passes over.
    words += [_page_refusal(page) for page in facts.pages if "." not in page.name]
    return next((found for found in words if found), None)


def _level_refusal(page: TiffPage) -> str | None:
    """Why it does not decode a level, or None."""
    if refusal := _page_refusal(page):
        return refusal
    if not page.is_tiled:
        return "decodes no strips"
    if (page.channels, page.bits, page.sample_format) != (3, 8, 1) or not page.is_plain:
        planes = "in one plane" if page.is_plain else "in several planes"
        return f"decodes no {page.channels} x {page.bits} bits a pixel {planes}"
    if page.compression not in _PREDICTORS or page.photometric not in _PHOTOMETRIC.get(page.compression, (RGB,)):
        return f"decodes no {codec_name(page)} of {colours_name(page)}"
    return None


def _page_refusal(page: TiffPage) -> str | None:
    """Why no page of a file may be like this one, or None."""
    if page.predictor not in _PREDICTORS.get(page.compression, (1,)):
        return f"does not bear {codec_name(page)}"
    return None


def _cu_image_class() -> "type[CuImage]":
    """The class that reads slides, imported late: it is not on every platform and prints where there is no GPU driver.

    cuCIM's top package imports CuPy wherever that is installed, half a second and 200 MB a process, for the sake of
    image processing that is not used here. It does without, so it is told that there is none.
    """
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
    source = Source(
        vendor="aperio" if "aperio" in metadata else "tiff",
        levels=make_levels(levels["level_dimensions"], levels["level_tile_sizes"]),
        mpp_candidates=(),  # its spacing is 1.0 where the file says nothing, and never more than the tags say
        associated=tuple(sorted(image.associated_images)),
    )
    return source, tuple(levels["level_downsamples"])
