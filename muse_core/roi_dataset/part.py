"""One Parquet part of ROIs, found and opened."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from muse_core.errors import DatasetError

PROVENANCE_KEY = b"muse"


def read_provenance(path: Path) -> dict[str, Any]:
    """What a part says of its making; empty where it says nothing.

    Raises:
        DatasetError: the file is not whole Parquet.
    """
    with opened_part(fs.LocalFileSystem(), str(path)) as file:
        text = (file.metadata.metadata or {}).get(PROVENANCE_KEY, b"{}")
    return dict(json.loads(text))


class Part:
    """An open file, and where each of its rows lies."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file = file
        metadata = file.metadata
        self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])

    def locate(self, row: int) -> tuple[int, int]:
        """Row group of a row, and its place in the group."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        return group, row - (int(self._ends[group - 1]) if group else 0)


def find_parts(source: str | Path | Sequence[str | Path]) -> tuple[fs.FileSystem, list[str]]:
    """The filesystem and the sorted paths of a dataset's Parquet files."""
    if not isinstance(source, (str, Path)):
        found = [_resolve(one) for one in source]
        if not found:
            raise DatasetError("no parts were given; give a dataset folder")
        return found[0][0], sorted(path for _, path in found)
    filesystem, root = _resolve(source)
    info, rois = filesystem.get_file_info([root, f"{root}/rois"])
    if info.type == fs.FileType.File:
        return filesystem, [root]
    if info.type == fs.FileType.NotFound:
        raise DatasetError(f"{source}: no such folder; give the folder that muse build-tcga-nu --out wrote")
    folder = rois.path if rois.type == fs.FileType.Directory else root
    entries = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    paths = sorted(entry.path for entry in entries if entry.is_file and _is_part(entry.path[len(folder) :]))
    if not paths:
        raise DatasetError(f"{source}: no ROI dataset, it has no Parquet file; build one with muse build-tcga-nu")
    return filesystem, paths


def _resolve(source: str | Path) -> tuple[fs.FileSystem, str]:
    if isinstance(source, Path) or "://" not in source:
        return fs.LocalFileSystem(), os.path.abspath(source)
    try:
        filesystem, path = fs.FileSystem.from_uri(source)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{source}: {error}; give a folder, or a URL that pyarrow opens (s3://, gs://)") from None
    return filesystem, path


def _is_part(relative: str) -> bool:
    """Whether a path below the dataset folder is data: hidden names are files not yet whole."""
    names = relative.strip("/").split("/")
    return names[-1].endswith(".parquet") and not any(name.startswith((".", "_")) for name in names)


def opened_part(filesystem: fs.FileSystem, path: str) -> pq.ParquetFile:
    """A part opened, its footer read."""
    try:
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_part(path, error) from None


def unreadable_part(path: str, error: Exception) -> DatasetError:
    """The error that says what to do about a damaged part."""
    return DatasetError(f"{path}: damaged or not whole ({error}); delete it and build its slide again")
