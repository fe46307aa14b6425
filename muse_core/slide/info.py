"""What is known about a slide once it is open: frozen facts, no pixels."""

from dataclasses import dataclass
from pathlib import Path

from muse_core.geometry import Box


@dataclass(frozen=True)
class Mpp:
    """Micrometres a level-0 pixel along each axis, and where the figure comes from.

    Attributes:
        x: µm per level-0 pixel along x; NaN where it is missing and that was tolerated.
        y: the same along y.
        source: "override", "openslide.mpp-x", "aperio.MPP", "ome.PhysicalSizeX", "imagej.unit", "tiff.XResolution" or
            "missing".
    """

    x: float
    y: float
    source: str


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        width: px of this level.
        height: px of this level.
        downsample_x: level-0 px per px of this level along x.
        downsample_y: the same along y.
        tile_width: px of the tiles it is stored in; 0 where unknown.
        tile_height: the same along y.
    """

    width: int
    height: int
    downsample_x: float
    downsample_y: float
    tile_width: int
    tile_height: int


@dataclass(frozen=True)
class SlideInfo:
    """The facts of an open slide that tables and messages need.

    Attributes:
        path: the file.
        reader: who reads the pixels: "cucim", "openslide", "tifffile" or "pillow".
        reader_check: how that reader was checked before it was trusted, in a few words.
        vendor: the format's vendor in OpenSlide's words where it knows it, else the TIFF kind.
        mpp: µm a level-0 pixel.
        levels: finest first; level 0 is the full image.
        bounds_level0: the scanned part of the image where the scanner names one; never subtracted here.
        associated: names of the label, macro, thumbnail, ... images.
        scene: which of several pictures in the file was asked for; None for the largest.
        decodes_on_gpu: whether a GPU may decode it (by cuCIM), as far as the file's own tags say.
        judgement: what was concluded of the file and why, a sentence each: which of its images are the slide, whose
            µm/px, which colours, how it lies.
    """

    path: Path
    reader: str
    reader_check: str
    vendor: str
    mpp: Mpp
    levels: tuple[Level, ...]
    bounds_level0: Box | None
    associated: tuple[str, ...]
    judgement: tuple[str, ...] = ()
    scene: int | None = None
    decodes_on_gpu: bool = False

    @property
    def width_level0(self) -> int:
        """Width of the full image in level-0 px."""
        return self.levels[0].width

    @property
    def height_level0(self) -> int:
        """Height of the full image in level-0 px."""
        return self.levels[0].height
