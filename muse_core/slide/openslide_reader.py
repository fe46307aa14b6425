"""Reading through OpenSlide: the widest choice of formats, and the reference for the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openslide

from muse_core.errors import SlideReadError
from muse_core.geometry import Box
from muse_core.images.pixels import Pixels, to_rgb, ycbcr_to_rgb
from muse_core.slide.focus_planes import planes_in_properties
from muse_core.slide.info import Mpp
from muse_core.slide.quiet import quiet_output
from muse_core.slide.reader import Corner, Source, make_levels

_CACHE_BYTES = 32 << 20  # a handle; the library's own default is shared by nobody and as large


class OpenSlideReader:
    """One OpenSlide handle. After one failed read every later one fails too: the owner replaces it."""

    name = "openslide"

    def __init__(self, path: Path, *, from_ycbcr: bool = False) -> None:
        """Open the file.

        Args:
            path: the slide.
            from_ycbcr: what it decodes is YCbCr that the file's header calls RGB.

        Raises:
            SlideReadError: OpenSlide does not know it.
        """
        try:
            with quiet_output():
                self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise SlideReadError(f"openslide: {error}") from error
        self._from_ycbcr = from_ycbcr
        self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        self._downsamples = self._slide.level_downsamples
        self.source = _describe(self._slide)

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """A rectangle inside the level, (height, width, 3); see `Reader.read`."""
        # The library takes level-0 positions and divides by its own idea of the downsample, so that one is used here.
        scale = self._downsamples[level]
        location = (round(corner[0] * scale), round(corner[1] * scale))
        try:
            image = self._slide.read_region(location, level, (width, height))
        except openslide.OpenSlideError as error:
            raise SlideReadError(f"openslide: {error}") from error
        rgba = np.asarray(image)
        if self._from_ycbcr:
            rgba = np.dstack([ycbcr_to_rgb(rgba[:, :, :3]), rgba[:, :, 3:]])
        return rgba[:, :, :3].copy() if rgba[:, :, 3].all() else to_rgb(rgba)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """One after another; see `Reader.read_many`."""
        for corner in corners:
            yield self.read(corner, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """The label, macro, ... image."""
        try:
            return to_rgb(np.asarray(self._slide.associated_images[name].convert("RGBA")))
        except openslide.OpenSlideError as error:
            raise SlideReadError(f"openslide: {error}") from error

    def close(self) -> None:
        """Close the handle and free its cache."""
        self._slide.close()


def _describe(slide: openslide.OpenSlide) -> Source:
    properties = slide.properties
    tiles = [
        (
            int(properties.get(f"openslide.level[{level}].tile-width", 0)),
            int(properties.get(f"openslide.level[{level}].tile-height", 0)),
        )
        for level in range(slide.level_count)
    ]
    return Source(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=make_levels(slide.level_dimensions, tiles),
        mpp_candidates=tuple(_mpp_candidates(properties)),
        bounds_level0=_bounds(properties),
        associated=tuple(sorted(slide.associated_images)),
        notes=(planes,) if (planes := planes_in_properties(properties)) else (),
    )


def _mpp_candidates(properties: openslide._PropertyMap) -> Iterator[Mpp]:
    names = (
        (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y, "openslide.mpp-x"),
        ("aperio.MPP", "aperio.MPP", "aperio.MPP"),
    )
    for name_x, name_y, source in names:
        if name_x in properties:
            try:
                x = float(properties[name_x])
                yield Mpp(x, float(properties.get(name_y, x)), source)
            except ValueError:
                continue


def _bounds(properties: openslide._PropertyMap) -> Box | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    if not all(name in properties for name in names):
        return None
    return Box(*(float(properties[name]) for name in names))
