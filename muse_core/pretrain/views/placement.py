"""Where the views of a ROI lie: their scales and corners, and the maps that carry coordinates.

MPP-based cropping: a view of R px at mpp_o out of a ROI at mpp_e is a square of a = R mpp_o / mpp_e ROI px, and a
nucleus c of the ROI stands at (c - o) R / a in it. Sides and corners stay fractions: nothing is rounded to a pixel.

Frames, all continuous with the centre of the top-left pixel at (0.5, 0.5): `roi`, px of the stored ROI; `view`, px of
the finished view, after mirroring and turning.

Source: MUSE, arXiv 2511.05170, equations 4 and 5.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muse_core.geometry import Points, inside
from muse_core.pretrain.views.settings import ViewSettings

# Quarter turns counter-clockwise as arrays are turned (numpy.rot90), about the centre, x right and y down.
_TURNS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]]], np.float64)
_TURNS_OF_MIRRORED = _TURNS * (-1, 1)  # the x that comes in changes its sign first

_ROUNDING_PX = 1e-3  # of a view: an anchor stays clear of the border by this, float32 coordinates being finer than it


class RoiFrame(NamedTuple):
    """The size and scale of a ROI's image: width and height in px, mpp in µm/px."""

    width_px: int
    height_px: int
    mpp: float

    @property
    def size(self) -> NDArray[np.float64]:
        """(width, height)."""
        return np.array([self.width_px, self.height_px], np.float64)

    def largest_mpp(self, side_px: int) -> float:
        """The coarsest mpp at which a view of that side still fits."""
        return min(self.width_px, self.height_px) * self.mpp / side_px


@dataclass(frozen=True)
class ViewPlace:
    """One view: a square of the ROI, mirrored left to right or not, then turned.

    Attributes:
        x_roi: left edge of the square, ROI px.
        y_roi: top edge.
        side_roi: its side, ROI px.
        side_px: side of the view, px.
        mirrored: whether left and right are exchanged.
        quarter_turns: 0 to 3, counter-clockwise as numpy.rot90 turns arrays, after the mirroring.
    """

    x_roi: float
    y_roi: float
    side_roi: float
    side_px: int
    mirrored: bool = False
    quarter_turns: int = 0

    @property
    def to_view(self) -> NDArray[np.float64]:
        """(2, 3) affine map from ROI px to view px."""
        turn = self._turn * (self.side_px / self.side_roi)
        return _affine(turn, self.side_px / 2 - turn @ self._centre_roi)

    @property
    def to_roi(self) -> NDArray[np.float64]:
        """(2, 3) affine map from view px to ROI px."""
        turn = self._turn.T * (self.side_roi / self.side_px)  # a turn's inverse is its transpose
        return _affine(turn, self._centre_roi - turn.sum(axis=1) * (self.side_px / 2))

    @property
    def _turn(self) -> NDArray[np.float64]:
        turn: NDArray[np.float64] = (_TURNS_OF_MIRRORED if self.mirrored else _TURNS)[self.quarter_turns]
        return turn

    @property
    def _centre_roi(self) -> NDArray[np.float64]:
        return np.array([self.x_roi + self.side_roi / 2, self.y_roi + self.side_roi / 2])


def place_views(
    frame: RoiFrame, xy_roi: Points, settings: ViewSettings, rng: np.random.Generator
) -> tuple[ViewPlace, ...]:
    """Draw the views of one ROI; the global ones come first.

    Args:
        frame: the ROI, which holds a view of every side at its finest mpp; coarser than fits is not drawn.
        xy_roi: (N, 2) nuclei, ROI px.
        settings: counts, sides, scales and placement.
        rng: the only source of chance.
    """
    side_px = np.array([settings.side_px(view) for view in range(settings.n_views)])
    side_roi = np.array([_draw_side_roi(view, frame, settings, rng) for view in range(settings.n_views)])
    if settings.placement == "anchored":
        corners = _anchored(frame, xy_roi, side_roi, settings.border_px * side_roi / side_px, rng)
    else:
        part = settings.sub_roi_scale * side_roi.max() if settings.placement == "sub_roi" else np.inf
        corners = _independent(frame, side_roi, part, rng)
    mirrored = rng.random(len(side_px)) < settings.mirror_share
    turns = rng.integers(4, size=len(side_px)) if settings.quarter_turns else np.zeros(len(side_px), np.int64)
    return tuple(
        ViewPlace(float(x), float(y), float(side), int(px), bool(mirror), int(turn))
        for (x, y), side, px, mirror, turn in zip(corners, side_roi, side_px, mirrored, turns, strict=True)
    )


def coordinates(places: tuple[ViewPlace, ...], xy_roi: Points) -> NDArray[np.float32]:
    """Nuclei (N, 2) in ROI px to (V, N, 2) float32 in px of each view; those outside a view lie outside its square."""
    maps = np.stack([place.to_view for place in places])  # (V, 2, 3)
    # All views in one product, which is several times as fast as one a view: (N, 2) @ (2, V * 2) -> (N, V, 2).
    linear = np.asarray(xy_roi, np.float64) @ maps[:, :, :2].reshape(-1, 2).T
    xy_view = linear.reshape(-1, len(places), 2) + maps[:, :, 2]
    return np.ascontiguousarray(xy_view.transpose(1, 0, 2), np.float32)


def validity(places: tuple[ViewPlace, ...], xy_view: NDArray[np.float32], border_px: float) -> NDArray[np.bool_]:
    """(V, N) which nuclei lie in which view: border_px <= x, y < side - border_px, half open as pixels are."""
    valid = np.empty(xy_view.shape[:2], np.bool_)
    for view, place in enumerate(places):
        inner = place.side_px - 2 * border_px
        valid[view] = inside(xy_view[view] - np.float32(border_px), inner, inner)
    return valid


def _affine(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.empty((2, 3))  # faster than column_stack, which shows at ten views a ROI
    matrix[:, :2], matrix[:, 2] = linear, shift
    return matrix


def _draw_side_roi(view: int, frame: RoiFrame, settings: ViewSettings, rng: np.random.Generator) -> float:
    """Side of a view's square in ROI px at a random mpp of its range, a = R mpp_o / mpp_e."""
    side_px = settings.side_px(view)
    finest, coarsest = settings.mpp_range(view)
    coarsest = min(coarsest, frame.largest_mpp(side_px))
    if settings.mpp_distribution == "log-uniform":
        mpp = float(np.exp(rng.uniform(np.log(finest), np.log(coarsest))))
    else:
        mpp = float(rng.uniform(finest, coarsest))
    return min(side_px * mpp / frame.mpp, float(min(frame.width_px, frame.height_px)))


def _anchored(
    frame: RoiFrame,
    xy_roi: Points,
    side_roi: NDArray[np.float64],
    border_roi: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(V, 2) corners of squares that all contain one random nucleus within their borders, each anywhere it can.

    Without a nucleus far enough from the ROI's edge to be within every view's border, a random point takes its place.
    """
    edge = float(border_roi.max())
    usable = np.flatnonzero(inside(np.asarray(xy_roi) - edge, *(frame.size - 2 * edge)))
    anchor = xy_roi[rng.choice(usable)] if len(usable) else edge + rng.random(2) * (frame.size - 2 * edge)
    border = (border_roi + _ROUNDING_PX)[:, None]
    side = side_roi[:, None]
    low = np.maximum(anchor - side + border, 0.0)  # (V, 2)
    high = np.minimum(anchor - border, frame.size - side)
    return np.asarray(np.clip(low + rng.random(low.shape) * (high - low), 0.0, frame.size - side), np.float64)


def _independent(
    frame: RoiFrame, side_roi: NDArray[np.float64], part_roi: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(V, 2) corners of squares anywhere in a random square part of the ROI, or in all of it where that is smaller."""
    part = np.minimum(part_roi, frame.size)
    corner = rng.random(2) * (frame.size - part)
    within = rng.random((len(side_roi), 2)) * (part - side_roi[:, None])
    return np.asarray(corner + within, np.float64)
