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
from typing import Any

from muse_core.build.patch_chunk import Chunk, failed_row, import_chunk
from muse_core.build.settings import ImportSettings
from muse_core.build.summary import ImportSummary
from muse_core.cohort.manifest.patch_list import Patch, list_patches
from muse_core.cohort.paths import RunPaths, claim
from muse_core.cohort.records import SlideRecord, write_slides_table
from muse_core.cohort.summary import summarise, write_summary
from muse_core.cohort.uris import path_text
from muse_core.detector.detect import SHIPPED_DETECTORS, load_detector
from muse_core.errors import ConfigError, MuseError, OutputError, figure
from muse_core.images.plausible_mpp import PATCH_MPP
from muse_core.machine.files import sweep_temporaries, whole_file
from muse_core.machine.lock import locked
from muse_core.machine.workers import Workers, open_workers, tried, value_of
from muse_core.roi_dataset.write import part_path
from muse_core.schemas import NO_PROJECT

logger = logging.getLogger(__name__)

_LONGEST_PROJECT_BYTES = 255
RETRIED = frozenset({"not_found", "no_access", "crashed", "worker_killed"})  # not the image's own fault

OnImages = Callable[[int, int], None]


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


def import_patches(
    options: ImportOptions, settings: ImportSettings, *, on_images: OnImages | None = None
) -> ImportSummary:
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
    with locked(paths.out):
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
            summary = summarise(records, ImportSummary())
            summary.peak_rss_bytes = workers.peak_rss_bytes()
        write_slides_table(paths.slides_table, records)
        with whole_file(paths.settings) as file:
            file.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
        summary.seconds = time.monotonic() - begun
        write_summary(RunPaths(options.out), summary)
    return summary


def _check(options: ImportOptions, settings: ImportSettings) -> None:
    low, high = PATCH_MPP
    if not low <= options.mpp <= high:
        raise ConfigError(f"--mpp {figure(options.mpp)}: needs µm/px between {low:g} and {high:g}, such as 0.25")
    project = options.project
    if not project.strip() or not project.isprintable() or len(project.encode()) > _LONGEST_PROJECT_BYTES:
        raise ConfigError(f"--project {project[:40]!r}: a name of 1 to {_LONGEST_PROJECT_BYTES} bytes is needed")
    if settings.detector not in SHIPPED_DETECTORS:
        load_detector(settings.detector)  # a name that cannot be loaded should not fail chunk after chunk


def _claim(paths: RunPaths, images: Path) -> None:
    """Note which folder the output is of; what another folder's images made must not be dropped as gone.

    Raises:
        OutputError: the output is of slides or of another folder (reason output_mixed).
    """
    claim(paths, "import-patches")
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
    for part in set((paths.out / "rois").glob("*/part-patches-*.parquet")) - parts:
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
            rows = [failed_row(chunk, patch, "worker_killed", f"{patch.path}: {message}") for patch in chunk.patches]
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
