"""What a slide's result hangs on, as one hash."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from muse_core.cohort.acquire import local_path
from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.uris import public_uri
from muse_core.errors import DatasetError
from muse_core.slide.file_set import files_of_slide


def hash_of_inputs(
    row: ManifestRow, *, depends_on: list[Any], edited: Path | None = None, by_content: bool = False
) -> str:
    """Sixteen hex digits that change when the slide's file, its manifest row or anything named does.

    Args:
        row: the slide.
        depends_on: JSON values: hashes of the settings and models that matter.
        edited: a file of polygons that a person gave for this slide.
        by_content: the row's md5 is of all that is read, so that no file's size and time need to count.

    Raises:
        OSError: the slide's file cannot be looked at.
        DatasetError: the polygons cannot be read.
    """
    path = local_path(row)
    # With a checksum it plays no part where the slide lies, nor how its URL is signed today.
    parts: list[Any] = [row.slide_id, row.case_id, row.project, row.md5 or public_uri(row.uri), row.size, row.mpp]
    parts += [] if row.scene is None else [f"scene {row.scene}"]
    if row.version is not None:
        parts.append(row.version)
    parts += depends_on
    if path is not None and not by_content and os.path.exists(path):  # False for impossible names
        files = files_of_slide(path)  # a manifest's md5 is of the first alone
        for file in files if row.md5 is None else files[1:]:
            parts += [file.stat().st_size, file.stat().st_mtime_ns]
    if edited is not None:
        parts.append(hash_of_polygons(edited))
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


def hash_of_polygons(path: Path) -> str:
    """The sha256 of a file of polygons, 64 hex digits.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}; make it readable") from None
