"""A chunk of ready-made patch images to ROI rows."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_core.build.settings import BUILD_VERSION, ImportSettings, weights_hash
from muse_core.cohort.manifest.patch_list import Patch
from muse_core.cohort.manifest.tcga import patient_barcode
from muse_core.cohort.records import package_versions
from muse_core.cohort.uris import path_text
from muse_core.config import settings_hash
from muse_core.detector.detect import Detector, adapted, detect_image, load_detector
from muse_core.errors import MuseError
from muse_core.images.decode import decode_patch
from muse_core.images.stain import stained_pixels
from muse_core.roi_dataset.image import encode_roi
from muse_core.roi_dataset.write import RoiRow, write_rois

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Images that make one part, as a worker needs them: picklable, with everything its rows depend on."""

    key: str
    patches: tuple[Patch, ...]
    mpp: float
    project: str
    part: Path
    record: Path
    settings: ImportSettings

    @property
    def inputs_hash(self) -> str:
        """Changes when an image, its name or time, the mpp, the project or a setting that matters does."""
        files = [[patch.slide_id, str(patch.path), patch.size, patch.mtime_ns] for patch in self.patches]
        detector = weights_hash(self.settings.detector)
        made_by = [BUILD_VERSION, settings_hash(self.settings) + detector, self.mpp, self.project]
        return hashlib.sha256(json.dumps([files, made_by]).encode()).hexdigest()[:16]


def import_chunk(chunk: Chunk) -> list[dict[str, Any]]:
    """Write the part of a chunk and return a row of the slides table for each of its images, in their order.

    Raises:
        ConfigError: the detector cannot be loaded.
        OutputError: the disk is full.
    """
    rows: list[dict[str, Any]] = []
    detector = None if chunk.settings.detector == "none" else load_detector(chunk.settings.detector)
    chunk.part.unlink(missing_ok=True)  # where no image is good any more, no new part takes its place
    provenance = {
        "inputs_hash": chunk.inputs_hash,
        "mpp": chunk.mpp,
        "settings": chunk.settings.model_dump(mode="json"),
    }
    write_rois(chunk.part, _rois(chunk, detector, rows), provenance)
    return rows


def _rois(chunk: Chunk, detector: Detector | None, rows: list[dict[str, Any]]) -> Iterator[RoiRow]:
    """Rows to store; rows of the slides table, failed ones too, are appended to `rows` on the way."""
    for patch in chunk.patches:
        begun = time.monotonic()
        try:
            roi, facts = _roi(chunk, patch, detector)
        except MuseError as error:
            rows.append(failed_row(chunk, patch, error.reason, str(error)))
        except Exception as error:
            # A fault of a third party's detector, or of ours, must not cost the other images.
            logger.exception("%s", patch.path)
            rows.append(failed_row(chunk, patch, "crashed", f"{patch.path}: {type(error).__name__}: {error}"))
        else:
            rows.append(_identity(chunk, patch) | facts | {"seconds": time.monotonic() - begun})
            yield roi


def _roi(chunk: Chunk, patch: Patch, detector: Detector | None) -> tuple[RoiRow, dict[str, Any]]:
    image = decode_patch(patch.path)
    height, width = image.rgb.shape[:2]
    nuclei = None
    if detector is not None:
        nuclei = detect_image(adapted(detector, stained_pixels(image.rgb, chunk.mpp)), image.rgb, chunk.mpp)
    settings = chunk.settings.image
    roi = RoiRow(
        roi_id=f"{patch.slide_id}_00000",
        slide_id=patch.slide_id,
        case_id=_case_id(patch),
        project=chunk.project,
        x_level0=0.0,
        y_level0=0.0,
        width_level0=float(width),
        height_level0=float(height),
        mpp=chunk.mpp,
        width_px=width,
        height_px=height,
        tissue_fraction=None,
        nuclei=nuclei,
        image=encode_roi(
            image.rgb,
            quality=settings.quality,
            subsampling=settings.subsampling,
            tile_px=settings.tile_px,
            mpp=chunk.mpp,
        ),
    )
    facts = {"md5": image.md5, "vendor": image.format, "width_level0": width, "height_level0": height}
    facts |= {"mpp_x": chunk.mpp, "mpp_y": chunk.mpp, "mpp_source": "override", "reader": "pillow", "level_count": 1}
    return roi, facts | {"n_rois": 1, "n_nuclei": 0 if nuclei is None else len(nuclei)}


def _identity(chunk: Chunk, patch: Patch) -> dict[str, Any]:
    return {
        "slide_id": patch.slide_id,
        "case_id": _case_id(patch),
        "project": chunk.project,
        "uri": path_text(patch.path),
        "status": "done",
        "reason": None,
        "message": None,
        "size": max(0, patch.size),
        "n_failed_rois": 0,
        "versions": json.dumps(package_versions()),
    }


def failed_row(chunk: Chunk, patch: Patch, reason: str, message: str) -> dict[str, Any]:
    """The row of an image that could not be taken, with its reason."""
    failed = {"status": "failed", "reason": reason, "message": " ".join(message.split()), "n_rois": 0, "n_nuclei": 0}
    return {**_identity(chunk, patch), **failed}


def _case_id(patch: Patch) -> str:
    return patient_barcode(Path(patch.slide_id).name) or patch.slide_id
