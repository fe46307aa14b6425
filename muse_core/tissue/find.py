"""A slide's tissue: the overview's mask, less what is out of focus, as polygons."""

import logging
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from muse_core.errors import TissueError, figure, percent
from muse_core.geometry import Frame
from muse_core.slide import Slide, SlideInfo
from muse_core.tissue.focus import blurred_mask
from muse_core.tissue.mask import MaskResult, find_mask, looks_fluorescent
from muse_core.tissue.overview import Overview, read_overview
from muse_core.tissue.polygons import clip_polygons, mask_to_polygons
from muse_core.tissue.settings import TissueSettings

logger = logging.getLogger(__name__)

_COARSE = 2.0  # a slide that many times coarser than focus_mpp shows no detail to judge focus by


@dataclass(frozen=True)
class Tissue:
    """Where a slide's tissue is.

    Attributes:
        polygons: valid, disjoint polygons in level-0 px, largest first.
        background: RGB 0..255 of the glass; white where it is not known.
        refused_mm2: area that was dark or stained but isn't usable tissue, by cause: ink, black, neutral, blur.
        source: "found", or the name of the file that the polygons were read from.
    """

    polygons: tuple[Polygon, ...]
    background: tuple[float, float, float] = (255.0, 255.0, 255.0)
    refused_mm2: dict[str, float] = field(default_factory=dict)
    source: str = "found"


def tissue_area_mm2(tissue: Tissue, mpp_x: float, mpp_y: float) -> float:
    """Area of a slide's tissue in mm²."""
    return float(shapely.area(np.asarray(tissue.polygons, object)).sum()) * mpp_x * mpp_y * 1e-6


def find_tissue(slide: Slide, settings: TissueSettings, *, overview: Overview | None = None) -> Tissue:
    """Find a slide's tissue on its overview.

    Args:
        slide: an open slide of known mpp.
        settings: what counts as tissue.
        overview: the slide's overview where it has been read already, reduced here to about `settings.overview_mpp`.

    Returns:
        At least one polygon.

    Raises:
        TissueError: reason no_tissue: nothing is stained like tissue; the message says what there is instead.
        SlideReadError: the overview cannot be read.
    """
    info = slide.info
    if overview is None:
        overview = read_overview(slide, settings.overview_mpp, max_px=settings.max_overview_px)
    overview = overview.reduced(settings.overview_mpp)
    mpp = overview.mpp
    if looks_fluorescent(overview.rgb):
        level = float(np.median(overview.rgb))
        raise TissueError(
            f"{info.path}: no tissue: dark background (median {level:.0f} of 255): looks like fluorescence; "
            "only stained bright-field slides (H&E, IHC) have tissue to find"
        )
    found = find_mask(overview.rgb, mpp, settings)
    blur = _blur(slide, found.tissue, mpp, settings)
    polygons = _polygons(found.tissue & ~blur, overview.frame, info, settings=settings, mpp=mpp)
    refused = {**found.refused, "blur": blur & found.tissue}
    refused_mm2 = {name: round(float(mask.sum()) * mpp**2 * 1e-6, 4) for name, mask in refused.items() if mask.any()}
    if not polygons:
        raise TissueError(_nothing(info, found, refused, settings))
    if refused_mm2:
        logger.info("%s: not taken for tissue (mm2): %s", info.path.name, refused_mm2)
    return Tissue(tuple(polygons), found.background, refused_mm2)


def _blur(slide: Slide, tissue: NDArray[np.bool_], mpp: float, settings: TissueSettings) -> NDArray[np.bool_]:
    slide_mpp = slide.info.mpp
    if settings.min_focus == 0 or max(slide_mpp.x, slide_mpp.y) > _COARSE * settings.focus_mpp:
        return np.zeros_like(tissue)
    side = settings.focus_window_px

    def read_window(x_um: float, y_um: float) -> NDArray[np.uint8]:
        half_um = side * settings.focus_mpp / 2
        x_level0, y_level0 = (x_um - half_um) / slide_mpp.x, (y_um - half_um) / slide_mpp.y
        return slide.read_region(x_level0, y_level0, side, side, mpp=settings.focus_mpp)

    return blurred_mask(tissue, mpp, read_window, settings)


def _polygons(
    mask: NDArray[np.bool_], frame: Frame, info: SlideInfo, *, settings: TissueSettings, mpp: float
) -> list[Polygon]:
    # The overview's last row and column reach past the slide where its size is not a whole number of overview px.
    regions = mask_to_polygons(mask, frame, settings, mpp=mpp)
    return clip_polygons(regions, info.width_level0, info.height_level0)


def _nothing(
    info: SlideInfo, found: MaskResult, refused: dict[str, NDArray[np.bool_]], settings: TissueSettings
) -> str:
    shares = ", ".join(f"{name} {mask.mean():.0%}" for name, mask in refused.items() if mask.mean() >= 0.005)
    stained = f"{percent(found.tissue.mean(), 0)} of it" if found.tissue.any() else "nothing"
    return (
        f"{info.path}: no tissue: {stained} is stained like tissue, no piece of {figure(settings.min_area_um2)} um2 "
        f"is left (refused: {shares or 'nothing'}); lower tissue.min_stain_od or tissue.min_area_um2, or give the "
        "tissue as GeoJSON"
    )
