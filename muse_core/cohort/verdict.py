"""What became of a slide, in the words of the slides table."""

import json
import logging
from typing import Any

from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.records import package_versions
from muse_core.cohort.uris import path_of, public_uri
from muse_core.errors import MuseError, SlideReadError, TissueError
from muse_core.machine.workers import WorkerError, worker_was_killed
from muse_core.slide.probe import death_of

logger = logging.getLogger(__name__)


def explained(error: Exception, row: ManifestRow) -> Exception:
    """A worker's death as what it was where the slide's reader died of its file; found out in a process of its own."""
    path = path_of(row.uri)
    killed = worker_was_killed(error)
    if not killed or path is None or not path.is_file() or (death := death_of(path, scene=row.scene)) is None:
        return error
    text = f"{path}: worker after worker died over it: its reader {death}; convert it to a tiled JPEG TIFF"
    return SlideReadError(text, reason="reader_died")


def verdict(slide_id: str, error: Exception) -> tuple[str, str, str]:
    """Status, reason and message of a slide that was not done."""
    if isinstance(error, MuseError):
        return ("skipped" if isinstance(error, TissueError) else "failed"), error.reason, str(error)
    if worker_was_killed(error):
        message = f"{slide_id}: worker after worker died over it ({error}); give the workers more memory"
        return "failed", "worker_killed", message
    if isinstance(error, WorkerError):
        logger.error("%s: crashed on a worker:\n%s", slide_id, error.traceback_text)
        return "failed", "crashed", f"{slide_id}: {error}"
    logger.error("%s: crashed", slide_id, exc_info=error)
    return "failed", "crashed", f"{slide_id}: {type(error).__name__}: {error}"


def identity(row: ManifestRow) -> dict[str, Any]:
    """The columns of the slides table that say which slide it is."""
    return {
        "slide_id": row.slide_id,
        "case_id": row.case_id,
        "project": row.project,
        "uri": public_uri(row.uri),
        "md5": row.md5,
        "size": row.size,
        "scene": row.scene,
        "versions": json.dumps(package_versions()),
    }
