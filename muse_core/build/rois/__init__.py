"""Tissue polygons to ROIs: regions of fixed physical size kept for training."""

from muse_core.build.rois.select import RoiBox, choose_boxes, select_rois, tissue_fractions
from muse_core.build.rois.settings import RoiSettings
from muse_core.build.rois.shape import level_mpp

__all__ = ["RoiBox", "RoiSettings", "choose_boxes", "level_mpp", "select_rois", "tissue_fractions"]
