"""The only coordinate arithmetic: frames and the maps between them.

Every frame is continuous: x right, y down, and the centre of the top-left pixel is (0.5, 0.5). A change of scale is
then a plain multiplication, with no half-pixel term. The frames:

    level0   pixels of the slide's finest level, the full image (scanner bounds are not subtracted)
    level    pixels of one pyramid level: level0 divided by the level's downsample
    roi      pixels of a stored ROI: (level0 - ROI origin) times slide mpp over ROI mpp
    um       micrometres: level0 times (mpp_x, mpp_y)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]  # (N, 2) x, y


@dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle in one frame, named by whoever holds it: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The x just past the last column."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y just past the last row."""
        return self.y + self.height

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share area (touching edges don't)."""
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom


@dataclass(frozen=True)
class Frame:
    """A pixel grid laid on level 0: its origin there, and level-0 pixels per pixel of the grid.

    Attributes:
        x_level0: level-0 x of the grid's left edge.
        y_level0: level-0 y of the grid's top edge.
        scale_x: level-0 px per grid px along x (grid mpp / slide mpp_x).
        scale_y: the same along y.
    """

    x_level0: float
    y_level0: float
    scale_x: float
    scale_y: float

    def to_level0(self, xy: Points) -> NDArray[np.float64]:
        """Grid px (N, 2) to level-0 px (N, 2), float64."""
        return np.asarray(xy, np.float64) * (self.scale_x, self.scale_y) + (self.x_level0, self.y_level0)

    def from_level0(self, xy_level0: Points) -> NDArray[np.float64]:
        """Level-0 px (N, 2) to grid px (N, 2), float64."""
        return (np.asarray(xy_level0, np.float64) - (self.x_level0, self.y_level0)) / (self.scale_x, self.scale_y)


def frame_at(x_level0: float, y_level0: float, mpp: float, slide_mpp: tuple[float, float]) -> Frame:
    """The frame of a grid at `mpp` (µm/px, both axes) with its corner at a level-0 point of a slide of that mpp."""
    return Frame(x_level0, y_level0, mpp / slide_mpp[0], mpp / slide_mpp[1])


def level0_to_um(xy_level0: Points, slide_mpp: tuple[float, float]) -> NDArray[np.float64]:
    """Level-0 px (N, 2) to µm (N, 2)."""
    return np.asarray(xy_level0, np.float64) * slide_mpp


def inside(xy: Points, width: float, height: float) -> NDArray[np.bool_]:
    """Which points (N, 2) lie in the half-open rectangle [0, width) x [0, height): one cell of a grid owns each."""
    x, y = np.asarray(xy).reshape(-1, 2).T
    return np.asarray((x >= 0) & (x < width) & (y >= 0) & (y < height))
