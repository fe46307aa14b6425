"""One Parquet part of ROIs, found and opened."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from muse_core.errors import DatasetError

PROVENANCE_KEY = b"muse"

_PAGE_HEADER_BYTES = 256  # a page's header and levels take about 40
_TIFF = b"II*\0"


def read_provenance(path: Path) -> dict[str, Any]:
    """What a part says of its making; empty where it says nothing.

    Raises:
        DatasetError: the file is not whole Parquet.
    """
    with opened_part(fs.LocalFileSystem(), str(path)) as file:
        text = (file.metadata.metadata or {}).get(PROVENANCE_KEY, b"{}")
    return dict(json.loads(text))


class ImageBytes:
    """One ROI's image within a part.

    Args:
        file: the part, open; it stays so while images of it are in use.
        start: where the image begins, bytes.
        size: of the image, bytes.
        path: for errors.
    """

    def __init__(self, file: pa.NativeFile, start: int, size: int, path: str) -> None:
        self._file, self._start, self.size, self._path = file, start, size, path

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the image from an offset on.

        Raises:
            DatasetError: the part cannot be read any more.
        """
        try:
            return bytes(self._file.read_at(length, self._start + offset))
        except OSError as error:
            raise unreadable_part(self._path, error) from None


class Part:
    """An open file, and where each of its rows lies.

    Args:
        file: the part.
        raw: the same file, where pieces of it are read as fast as they are small; None elsewhere.
        path: of the part.
    """

    def __init__(self, file: pq.ParquetFile, raw: pa.NativeFile | None = None, path: str = "") -> None:
        self.file, self._raw, self._path = file, raw, path
        metadata = file.metadata
        self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])

    def locate(self, row: int) -> tuple[int, int]:
        """Row group of a row, and its place in the group."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        return group, row - (int(self._ends[group - 1]) if group else 0)

    def image_bytes(self, group: int) -> ImageBytes | None:
        """Where the image of a row group of one ROI lies; None where that cannot be told, and the row is to be read.

        An image that is stored as it is, alone in its page, ends where its column's chunk ends and begins behind its
        own length.
        """
        about = self.file.metadata.row_group(group)
        if self._raw is None or about.num_rows != 1:
            return None
        column = next(one for one in map(about.column, range(about.num_columns)) if one.path_in_schema == "image")
        if column.compression != "UNCOMPRESSED" or column.has_dictionary_page:
            return None
        first, size = column.data_page_offset, column.total_compressed_size
        head = bytes(self._raw.read_at(min(size, _PAGE_HEADER_BYTES), first))
        begin = head.find(_TIFF)
        if begin < 4 or int.from_bytes(head[begin - 4 : begin], "little") != size - begin:
            return None
        return ImageBytes(self._raw, first + begin, size - begin, self._path)


def opened_raw(filesystem: fs.FileSystem, path: str) -> pa.NativeFile | None:
    """A part's bytes, where small pieces are cheap: on a disk of this machine. A request elsewhere costs more."""
    try:
        return filesystem.open_input_file(path) if isinstance(filesystem, fs.LocalFileSystem) else None
    except OSError as error:
        raise unreadable_part(path, error) from None


class Parts(NamedTuple):
    """Where a dataset's parts lie.

    Attributes:
        filesystem: of all of them.
        paths: sorted.
        folder: that they were found in; None where they were named one by one.
        infos: what the filesystem says of each; empty where they were named one by one.
    """

    filesystem: fs.FileSystem
    paths: list[str]
    folder: str | None = None
    infos: tuple[fs.FileInfo, ...] = ()


def find_parts(source: str | Path | Sequence[str | Path]) -> Parts:
    """The Parquet files of a dataset, and what their filesystem says of them."""
    if not isinstance(source, (str, Path)):
        found = [_resolve(one) for one in source]
        if not found:
            raise DatasetError("no parts were given; give a dataset folder")
        return Parts(found[0][0], sorted(path for _, path in found))
    filesystem, root = _resolve(source)
    info, rois = filesystem.get_file_info([root, f"{root}/rois"])
    if info.type == fs.FileType.File:
        return Parts(filesystem, [root])
    if info.type == fs.FileType.NotFound:
        raise DatasetError(f"{source}: no such folder; give the folder that muse build-tcga-nu --out wrote")
    folder = rois.path if rois.type == fs.FileType.Directory else root
    entries = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    parts = [entry for entry in entries if entry.is_file and _is_part(entry.path[len(folder) :])]
    if not parts:
        raise DatasetError(f"{source}: no ROI dataset, it has no Parquet file; build one with muse build-tcga-nu")
    parts.sort(key=lambda entry: str(entry.path))
    return Parts(filesystem, [entry.path for entry in parts], folder, tuple(parts))


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


def opened_part(filesystem: fs.FileSystem, path: str, raw: pa.NativeFile | None = None) -> pq.ParquetFile:
    """A part opened, its footer read; through a file that is open already, where there is one."""
    try:
        if raw is not None:
            return pq.ParquetFile(raw, page_checksum_verification=True)
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_part(path, error) from None


def unreadable_part(path: str, error: Exception) -> DatasetError:
    """The error that says what to do about a damaged part."""
    return DatasetError(f"{path}: damaged or not whole ({error}); delete it and build its slide again")
