"""A folder of ready-made patch images to the ROI dataset: each image is one "slide" and one ROI of its own size.

    images ─ chunks ─▶ decode, nuclei, encode, on workers ─▶ one part and one record a chunk ─▶ slides.parquet

A chunk is finished when its record stands. Chunks end after names picked by their hash, so that an image that comes or
goes changes its own chunk and no other.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from muse_core.build.settings import BUILD_VERSION, BuildSettings, weights_hash
from muse_core.cohort.manifest.patch_list import Patch, list_patches
from muse_core.cohort.manifest.tcga import patient_barcode
from muse_core.cohort.paths import RunPaths, locked, refuse_slides
from muse_core.cohort.records import BuildSummary, SlideRecord, package_versions, summarise, write_slides_table
from muse_core.cohort.uris import path_text
from muse_core.config import Settings, settings_hash
from muse_core.detector.detect import SHIPPED_DETECTORS, Detector, adapted, detect_image, load_detector
from muse_core.errors import ConfigError, MuseError, OutputError
from muse_core.images.decode import MPP_RANGE, decode_patch
from muse_core.images.stain import optical_density
from muse_core.machine.files import safe_name, sweep_temporaries, whole_file
from muse_core.machine.workers import Workers, open_workers, tried, value_of
from muse_core.roi_dataset.dataset import NO_PROJECT, RoiRow, part_path, write_rois
from muse_core.roi_dataset.image import RoiImageSettings, encode_roi

logger = logging.getLogger(__name__)

STAIN_MPP = 0.5  # nuclei are resolved, so that their colour is not mixed with their surroundings'
STAIN_PIXELS = 100_000  # F1 on BRCA-M2C validation is that of all pixels (0.829), the estimate takes half as long
STAINED_OD = 0.15  # no channel above it: glass
LONGEST_NAME_BYTES = 200  # of a folder's name; file systems take 255
RETRIED = frozenset({"not_found", "no_access", "crashed", "worker_killed"})  # not the image's own fault

OnImages = Callable[[int, int], None]


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


@dataclass(frozen=True)
class ImportOptions:
    """What to import, and where to.

    Attributes:
        images: folder of PNG, JPEG and TIFF files, searched whole; links to folders are not followed.
        mpp: µm/px of every image, both axes.
        out: the output folder.
        project: which project's the images are.
        workers: local worker processes; None for one a usable core, 0 for this process alone.
    """

    images: Path
    mpp: float
    out: Path
    project: str = NO_PROJECT
    workers: int | None = None


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


def import_patches(
    options: ImportOptions, settings: ImportSettings, *, on_images: OnImages | None = None
) -> BuildSummary:
    """Import a folder; what an earlier call finished is kept, what is no longer in the folder leaves the dataset.

    Args:
        options: the folder, its µm/px, and the output.
        settings: detector and storage.
        on_images: told how many images are done, of how many.

    Returns:
        Counts over all images. An image that cannot be imported is a row with status failed, not an exception.

    Raises:
        ConfigError: no such folder, no image in it, an mpp that is no microscope's, or no such detector.
        OutputError: the output is locked, cannot be written, or holds something else.
    """
    begun = time.monotonic()
    _check(options, settings)
    patches = list_patches(options.images)
    paths = RunPaths(options.out.absolute())
    with locked(paths):
        _claim(paths, options.images)
        sweep_temporaries(options.out)
        chunks = list(_chunks(patches, paths, options, settings))
        _remove_stale(paths, chunks)
        records: list[SlideRecord] = []
        with open_workers(options.workers) as workers:
            for outcome in _outcomes(chunks, workers):
                records += outcome
                if on_images:
                    on_images(len(records), len(patches))
            summary = summarise(records, BuildSummary())
            summary.peak_rss_bytes = workers.peak_rss_bytes()
        write_slides_table(paths.slides_table, records)
        with whole_file(paths.settings) as file:
            file.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
    summary.seconds = time.monotonic() - begun
    return summary


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


def _check(options: ImportOptions, settings: ImportSettings) -> None:
    low, high = MPP_RANGE
    if not low <= options.mpp <= high:
        raise ConfigError(f"--mpp {options.mpp:g}: needs µm/px between {low:g} and {high:g}, such as 0.25")
    project = options.project
    if not project.strip() or not project.isprintable() or len(safe_name(project)) > LONGEST_NAME_BYTES:
        raise ConfigError(
            f"--project {project[:40]!r}: a name of 1 to {LONGEST_NAME_BYTES} letters and digits is needed"
        )
    if settings.detector not in SHIPPED_DETECTORS:
        load_detector(settings.detector)  # a name that cannot be loaded should not fail chunk after chunk


def _claim(paths: RunPaths, images: Path) -> None:
    """Note which folder the output is of; what another folder's images made must not be dropped as gone.

    Raises:
        OutputError: the output is of slides or of another folder (reason output_mixed).
    """
    refuse_slides(paths)
    note, name = paths.patches / "source.txt", path_text(images.resolve())
    if note.exists() and (held := note.read_text(encoding="utf-8")) != name:
        raise OutputError(f"{paths.out}: holds the patches of {held}; give another --out", reason="output_mixed")
    with whole_file(note) as file:
        file.write_text(name, encoding="utf-8")


def _chunks(
    patches: Iterable[Patch], paths: RunPaths, options: ImportOptions, settings: ImportSettings
) -> Iterator[Chunk]:
    size = settings.chunk_images
    begun: list[Patch] = []
    for patch in patches:
        begun.append(patch)
        if _digest(patch.slide_id) % size == 0 or len(begun) == 2 * size:
            yield _chunk(begun, paths, options, settings)
            begun = []
    if begun:
        yield _chunk(begun, paths, options, settings)


def _chunk(patches: list[Patch], paths: RunPaths, options: ImportOptions, settings: ImportSettings) -> Chunk:
    first = patches[0].slide_id
    # The first image's name, so that parts sort about as images do, and its hash, so that no two chunks share a key.
    key = f"patches-{re.sub(r'[^A-Za-z0-9_.-]+', '_', first)[:80]}-{_digest(first):016x}"
    return Chunk(
        key=key,
        patches=tuple(patches),
        mpp=options.mpp,
        project=options.project,
        part=part_path(paths.out, options.project, key, 0),
        record=paths.patches / f"{key}.json",
        settings=settings,
    )


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _remove_stale(paths: RunPaths, chunks: list[Chunk]) -> None:
    """Delete the parts and records of images that are gone or filed elsewhere now."""
    parts, records = {chunk.part for chunk in chunks}, {chunk.record for chunk in chunks}
    for record in set(paths.patches.glob("*.json")) - records:
        record.unlink()
    for part in set((paths.out / "rois").glob("project=*/part-patches-*.parquet")) - parts:
        part.unlink()


def _outcomes(chunks: list[Chunk], workers: Workers) -> Iterator[list[SlideRecord]]:
    """Each chunk's records, those that an earlier run finished first; a bounded number of chunks is under way."""
    pending: dict[Future[Any], Chunk] = {}
    missing = []
    for chunk in chunks:
        known = _known_rows(chunk)
        if known is None:
            missing.append(chunk)
        else:
            yield [SlideRecord(row, chunk.inputs_hash, reused=row["status"] == "done") for row in known]
    for chunk in missing:
        pending[workers.executor.submit(tried, import_chunk, chunk)] = chunk
        if len(pending) > 2 * workers.count():
            yield from _done(pending)
    while pending:
        yield from _done(pending)


def _done(pending: dict[Future[Any], Chunk]) -> Iterator[list[SlideRecord]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        chunk = pending.pop(future)
        try:
            rows = value_of(future)
        except MuseError:
            raise
        except Exception as error:
            # A worker that died, of memory or of a detector's fault, must not end the import.
            logger.exception("%s", chunk.key)
            message = f"worker after worker died over a chunk of images that holds it ({type(error).__name__})"
            rows = [_failed(chunk, patch, "worker_killed", f"{patch.path}: {message}") for patch in chunk.patches]
        _keep_rows(chunk, rows)
        for row in rows:
            if row["status"] == "failed":
                logger.warning("%s: failed, %s: %s", row["slide_id"], row["reason"], row["message"])
        yield [SlideRecord(row, chunk.inputs_hash) for row in rows]


def _known_rows(chunk: Chunk) -> list[dict[str, Any]] | None:
    """The rows that an earlier run kept of exactly these images; None where there is something to do."""
    try:
        kept = json.loads(chunk.record.read_text(encoding="utf-8"))
        rows, inputs_hash = list(kept["rows"]), kept["inputs_hash"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, UnicodeDecodeError):
        return None
    whole = chunk.part.exists() or all(row["status"] == "failed" for row in rows)
    again = any(row["reason"] in RETRIED for row in rows)
    return rows if whole and not again and inputs_hash == chunk.inputs_hash else None


def _keep_rows(chunk: Chunk, rows: list[dict[str, Any]]) -> None:
    with whole_file(chunk.record) as file:
        file.write_text(json.dumps({"inputs_hash": chunk.inputs_hash, "rows": rows}), encoding="utf-8")


def _rois(chunk: Chunk, detector: Detector | None, rows: list[dict[str, Any]]) -> Iterator[RoiRow]:
    """Rows to store; rows of the slides table, failed ones too, are appended to `rows` on the way."""
    for patch in chunk.patches:
        begun = time.monotonic()
        try:
            roi, facts = _roi(chunk, patch, detector)
        except MuseError as error:
            rows.append(_failed(chunk, patch, error.reason, str(error)))
        except Exception as error:
            # A fault of a third party's detector, or of ours, must not cost the other images.
            logger.exception("%s", patch.path)
            rows.append(_failed(chunk, patch, "crashed", f"{patch.path}: {type(error).__name__}: {error}"))
        else:
            rows.append(_identity(chunk, patch) | facts | {"seconds": time.monotonic() - begun})
            yield roi


def _roi(chunk: Chunk, patch: Patch, detector: Detector | None) -> tuple[RoiRow, dict[str, Any]]:
    image = decode_patch(patch.path)
    height, width = image.rgb.shape[:2]
    nuclei = None
    if detector is not None:
        nuclei = detect_image(adapted(detector, _stained_pixels(image.rgb, chunk.mpp)), image.rgb, chunk.mpp)
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


def _stained_pixels(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
    """What a detector adapts to: pixels (N, 3) of the image at about 0.5 µm/px that are not glass."""
    binning = max(1, round(STAIN_MPP / mpp))
    height, width = (max(1, side // binning) for side in rgb.shape[:2])
    pixels = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8).reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // STAIN_PIXELS)]
    return pixels[(optical_density(pixels) > STAINED_OD).any(axis=1)]


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


def _failed(chunk: Chunk, patch: Patch, reason: str, message: str) -> dict[str, Any]:
    failed = {"status": "failed", "reason": reason, "message": " ".join(message.split()), "n_rois": 0, "n_nuclei": 0}
    return {**_identity(chunk, patch), **failed}


def _case_id(patch: Patch) -> str:
    return patient_barcode(Path(patch.slide_id).name) or patch.slide_id
