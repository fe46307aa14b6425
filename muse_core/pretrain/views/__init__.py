"""From ROIs to augmented views that know their nuclei: where views lie, their pixels, batches and the loader."""

from muse_core.pretrain.views.batch import Overlap, ViewBatch, view_batch
from muse_core.pretrain.views.loader import ViewLoader, check_dataset
from muse_core.pretrain.views.placement import RoiFrame, ViewPlace, coordinates, place_views, validity
from muse_core.pretrain.views.settings import Photometrics, ViewSettings

__all__ = [
    "Overlap",
    "Photometrics",
    "RoiFrame",
    "ViewBatch",
    "ViewLoader",
    "ViewPlace",
    "ViewSettings",
    "check_dataset",
    "coordinates",
    "place_views",
    "validity",
    "view_batch",
]
