"""Labelled patches cut into the tiles that representations are scored on.

A patch is brought to the asked µm/px as a whole, then cut from its corner by a grid of 224 px. A tile holds the nuclei
of its grid square, and shows as much around it as the field of view has more than 224 px. What lies outside the patch
comes from the image around it where the dataset has one, and is mirrored where it has not.

    exact     coordinates as they are; centres where the reader puts them
    official  every step cut to whole pixels of the slide, then of the tile, as the published scripts do; how maps are
              read and a released transformer's positions are loaded follows (see `encoders.load_encoder`)
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from muse_core.errors import ConfigError, figure
from muse_core.images.plausible_mpp import LABELLED_MPP
from muse_core.labels import LabelledPatch, read_rgb

Coordinates = Literal["exact", "official"]
COORDINATES: tuple[Coordinates, ...] = get_args(Coordinates)

# Source: preprocess/02_brcam2c_build_eval_data.py and its siblings, https://github.com/alibaba-damo-academy/MUSE
GRID_PX = 224  # nuclei of this square are scored, whatever the field of view
MPPS = (0.25, 0.5)
_OFFICIAL_WINDOW_PX = 1024  # the scripts read this much and crop its middle
_ENLARGED = 1.01  # µm/px that differ by less are the same
_EVEN_PX = 64  # a multiple that stays whole when scaled, so that the patch's corner does


@dataclass(frozen=True)
class TileSettings:
    """How patches are cut.

    Attributes:
        mpp: µm/px of the tiles; 0.25 is "40x", 0.5 is "20x".
        fov_px: side of a tile, at least 224.
        coordinates: see the module's text.
        dot_offset_px: what the dataset's reader added to the published whole-numbered dots; `official` takes it off.
    """

    mpp: float = 0.5
    fov_px: int = 224
    coordinates: Coordinates = "exact"
    dot_offset_px: float = 0.0

    def __post_init__(self) -> None:
        low, high = LABELLED_MPP
        if not low <= self.mpp <= high:
            needed = f"{low:g} to {high:g} needed, the published scores have 0.25 and 0.5"
            raise ConfigError(f"tiles at {figure(self.mpp)} um/px: {needed}")
        if self.fov_px < GRID_PX or self.fov_px % 16:
            raise ConfigError(f"field of view of {self.fov_px} px: a multiple of 16 from {GRID_PX} on is needed")
        if self.coordinates not in COORDINATES:
            raise ConfigError(f"coordinates {self.coordinates!r}: needs one of {', '.join(COORDINATES)}")


@dataclass(frozen=True)
class Tile:
    """One image with the nuclei of its middle 224 px.

    Attributes:
        name: the patch's, with the tile's column and row in the grid.
        image: (S, S, 3) uint8 RGB, S the field of view.
        xy: (N, 2) float32, px of the image; N is at least 1.
        class_ids: (N,) int64.
    """

    name: str
    image: NDArray[np.uint8]
    xy: NDArray[np.float32]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True)
class _Layout:
    """The grid on one patch: tile px per patch px, and where each nucleus goes."""

    scale: float
    squares: NDArray[np.int64]  # (N, 2) column and row
    xy: NDArray[np.float32]  # (N, 2) px of the nucleus' tile
    origin: NDArray[np.float64]  # (2,) px of a square in the scaled patch
    margin_px: int  # from a tile's edge to its square


def cut_tiles(patches: Iterable[LabelledPatch], settings: TileSettings) -> Iterator[Tile]:
    """Yield the tiles that hold a nucleus, patch by patch, column by column; each nucleus is in exactly one."""
    for patch in patches:
        layout = _official(patch, settings) if settings.coordinates == "official" else _exact(patch, settings)
        if len(layout.xy):
            yield from _cut(patch, layout, settings)


def made_up(patches: Sequence[LabelledPatch], settings: TileSettings) -> list[str]:
    """What tiles of these patches show that no scanner saw, in words for people; nothing where all is tissue."""
    notes = []
    coarsest = max(patch.mpp for patch in patches)
    if coarsest > _ENLARGED * settings.mpp:
        notes.append(
            f"images of {figure(coarsest, settings.mpp)} um/px are enlarged to {figure(settings.mpp)}, which adds no "
            "detail; the published scores are of tiles cut from the slides"
        )
    if settings.fov_px > GRID_PX and any(patch.surround is None for patch in patches):
        notes.append(
            f"fields of view of {settings.fov_px} px reach over the images' edges and are mirrored there; the "
            "published scores are of tiles that show the slide"
        )
    return notes


def _exact(patch: LabelledPatch, settings: TileSettings) -> _Layout:
    scale = patch.mpp / settings.mpp
    xy = patch.xy.astype(np.float64) * scale
    squares = np.floor(xy / GRID_PX).astype(np.int64)
    margin = (settings.fov_px - GRID_PX) // 2
    in_tile = xy - squares * GRID_PX + margin
    return _Layout(scale, squares, in_tile.astype(np.float32), np.full(2, float(GRID_PX)), margin)


def _official(patch: LabelledPatch, settings: TileSettings) -> _Layout:
    """The published arithmetic: whole pixels of the slide, a grid of whole slide pixels, whole pixels of the tile."""
    slide_mpp = patch.slide_mpp or patch.mpp
    square, side, window = (
        int(px * settings.mpp / slide_mpp) for px in (GRID_PX, settings.fov_px, _OFFICIAL_WINDOW_PX)
    )
    dots = patch.xy.astype(np.float64) - settings.dot_offset_px
    xy_level0 = np.trunc(dots * (patch.mpp / slide_mpp))  # from the corner of the patch
    squares = (xy_level0 // square).astype(np.int64)
    margin_level0 = (window - square) // 2 - (window - side) // 2
    to_tile = settings.fov_px / side
    in_tile = np.trunc((xy_level0 - squares * square + margin_level0) * to_tile)
    scale = patch.mpp / slide_mpp * to_tile
    origin = np.full(2, square * to_tile)
    return _Layout(scale, squares, in_tile.astype(np.float32), origin, round(margin_level0 * to_tile))


def _cut(patch: LabelledPatch, layout: _Layout, settings: TileSettings) -> Iterator[Tile]:
    image, corner = _around(patch, layout, settings)
    occupied, inverse = np.unique(layout.squares, axis=0, return_inverse=True)
    for number, square in enumerate(occupied):
        left, top = (np.rint(square * layout.origin).astype(int) - layout.margin_px + corner).tolist()
        inside = inverse.ravel() == number
        yield Tile(
            f"{patch.name}_{square[0]}_{square[1]}",
            image[top : top + settings.fov_px, left : left + settings.fov_px],
            layout.xy[inside],
            patch.class_ids[inside],
        )


def _around(
    patch: LabelledPatch, layout: _Layout, settings: TileSettings
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The patch at the tiles' µm/px with room for every tile, and where its corner (x, y) lies in that picture."""
    before = layout.margin_px
    starts = np.rint(layout.squares.max(axis=0) * layout.origin).astype(int) - layout.margin_px
    ends = starts + settings.fov_px  # (2,) right and lower edge of the last tiles, px of the scaled patch
    if patch.surround is not None:
        image, corner_px = _with_surround(patch, (before + 2) / layout.scale, np.ceil((ends + 2) / layout.scale))
    else:
        image, corner_px = patch.image, np.zeros(2, np.int64)
    scaled, corner = _scaled(image, layout.scale), np.rint(corner_px * layout.scale).astype(np.int64)
    height, width = scaled.shape[:2]
    left, top = np.maximum(before - corner, 0).tolist()
    right, bottom = np.maximum(ends + corner - (width, height), 0).tolist()
    padded = cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return np.asarray(padded, np.uint8), corner + np.array([left, top])


def _with_surround(
    patch: LabelledPatch, before: float, ends: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The part of the image around the patch that tiles reach, and the patch's corner in it (patch px)."""
    assert patch.surround is not None
    whole = read_rgb(patch.surround.path)
    x, y = patch.surround.x_px, patch.surround.y_px
    before_px = _EVEN_PX * math.ceil(before / _EVEN_PX)
    left, top = max(0, x - before_px), max(0, y - before_px)
    right, bottom = (min(side, at + int(end)) for side, at, end in zip(whole.shape[1::-1], (x, y), ends, strict=True))
    return whole[top:bottom, left:right], np.array([x - left, y - top])


def _scaled(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Resize by exactly `scale` from the top-left corner; the last row and column may be partly off the image."""
    if scale == 1:
        return image
    # Given as factors, the scale is kept; given as a size, it would be that of the rounded size.
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
