"""Slide overview to tissue polygons in level-0 px, and those polygons as editable GeoJSON."""

from muse_core.tissue.find import Tissue, find_tissue, tissue_area_mm2
from muse_core.tissue.geojson import read_tissue, write_tissue
from muse_core.tissue.mask import tissue_mask
from muse_core.tissue.overview import Overview, read_overview
from muse_core.tissue.polygons import mask_to_polygons
from muse_core.tissue.settings import TissueSettings

__all__ = [
    "Overview",
    "Tissue",
    "TissueSettings",
    "find_tissue",
    "mask_to_polygons",
    "read_overview",
    "read_tissue",
    "tissue_area_mm2",
    "tissue_mask",
    "write_tissue",
]
