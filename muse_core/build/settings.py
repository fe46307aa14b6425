"""Settings of build-tcga-nu: what the tables depend on, and what only the run does."""

from typing import Annotated

from pydantic import Field

from muse_core.build.rois import RoiSettings
from muse_core.cohort.acquire import AcquireSettings
from muse_core.config import Settings, settings_hash
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.models.tensor_file import hash_of
from muse_core.roi_dataset.image import RoiImageSettings
from muse_core.tissue import TissueSettings

# Raised by hand whenever code changes what a build writes for the same inputs, so that reruns redo it.
BUILD_VERSION = 2


class BuildSettings(Settings):
    """Everything configurable about a build; one TOML section a field.

    Attributes:
        tissue: how tissue is found.
        rois: how ROIs are chosen.
        image: how ROI images are stored.
        acquire: how slides are fetched (never changes the tables).
        detector: `learned`, `classical`, `none`, or the dotted name of a callable.
        chunk_rois: most ROIs a piece of work and a Parquet part; a slide's 42 make two. Fewer let more workers share
            one slide, and make more and smaller parts. A slide that is done is not cut anew.
        contact_sheets: whether to draw a picture a slide (never changes the tables).
    """

    tissue: TissueSettings = TissueSettings()
    rois: RoiSettings = RoiSettings()
    image: RoiImageSettings = RoiImageSettings()
    acquire: AcquireSettings = AcquireSettings()
    detector: str = "learned"
    chunk_rois: Annotated[int, Field(ge=1)] = 24
    contact_sheets: bool = True

    def tables_hash(self) -> str:
        """Changes exactly when the tables' rows would: how slides are fetched, cut into parts and drawn is left out."""
        neutral = self.model_copy(update={"acquire": AcquireSettings(), "chunk_rois": 1, "contact_sheets": True})
        return f"{BUILD_VERSION}-{settings_hash(neutral)}{weights_hash(self.detector)}"


def weights_hash(detector: str) -> str:
    """What a detector's name does not say: changes with the learned one's weights, which a new version may bring."""
    return "-" + hash_of(NUCLEUS_DETECTOR) if detector == "learned" else ""


class ImportSettings(Settings):
    """What the tables depend on, besides the images and their mpp.

    Attributes:
        detector: `learned`, `classical`, `none`, or the dotted name of a callable; that of build-tcga-nu by default.
        image: how ROI images are stored (`copy_tiles` has no meaning here).
        chunk_images: images a piece of work and a Parquet part, on average; at most twice as many.
    """

    detector: str = BuildSettings().detector
    image: RoiImageSettings = RoiImageSettings()
    chunk_images: Annotated[int, Field(ge=1)] = 32
