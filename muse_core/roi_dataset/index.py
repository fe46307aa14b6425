"""The small columns of a dataset of many parts in one file, so that opening it reads one file rather than every footer.

    OUT/.rois-index    Parquet: columns of schemas.SMALL_COLUMNS, the ROIs in index order

It is made when such a dataset is opened first, and believed only while names, sizes and times of all parts are those
that it was made of. It lies beside the folder of parts: Polars refuses a folder with files of any other kind. A place
that cannot be written stays without.
"""

import json
import logging
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from muse_core.machine.files import whole_file
from muse_core.schemas import ROIS, SMALL_COLUMNS

logger = logging.getLogger(__name__)

INDEX_NAME = ".rois-index"
INDEXED_FROM = 64  # parts; the footers of fewer are read in no time

_KEY = b"muse-roi-index"
_SCHEMA = pa.schema([ROIS.field(name) for name in SMALL_COLUMNS])


class Index(NamedTuple):
    """What a file says.

    Attributes:
        counts: ROIs of each part.
        table: the small columns of all ROIs, in index order.
    """

    counts: list[int]
    table: pa.Table


def stamps_of(infos: Sequence[fs.FileInfo], folder: str) -> list[list[str | int]]:
    """Name below the folder, bytes and time (ns) of each part: what an index is of."""
    return [[info.path[len(folder) :].strip("/"), int(info.size), int(info.mtime_ns or 0)] for info in infos]


def read_index(filesystem: fs.FileSystem, folder: str, infos: Sequence[fs.FileInfo]) -> Index | None:
    """The index of a folder; None where there is none, or where it is of other parts or damaged."""
    path = _path(folder)
    try:
        if filesystem.get_file_info(path).type != fs.FileType.File:
            return None
        table = pq.read_table(path, filesystem=filesystem, page_checksum_verification=True, partitioning=None)
        about = json.loads((table.schema.metadata or {})[_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        logger.info("%s: not readable (%s), it is made anew", path, error)
        return None
    right = about["parts"] == stamps_of(infos, folder) and table.schema.equals(_SCHEMA)
    return Index(about["counts"], table.replace_schema_metadata(None)) if right and _whole(about, table) else None


def write_index(filesystem: fs.FileSystem, folder: str, infos: Sequence[fs.FileInfo], index: Index) -> None:
    """Keep an index beside the parts, whole or not at all; where that cannot be, a line in the log says so."""
    about = json.dumps({"parts": stamps_of(infos, folder), "counts": index.counts})
    table = index.table.cast(_SCHEMA).replace_schema_metadata({_KEY: about.encode()})
    path = _path(folder)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            with whole_file(Path(path)) as temporary:
                pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
            return
        with filesystem.open_output_stream(path) as stream:  # an object is there once it is whole
            pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    except (pa.ArrowException, OSError) as error:
        logger.info("%s: not kept (%s); the dataset is opened part by part", path, error)


def _whole(about: dict[str, list[int]], table: pa.Table) -> bool:
    return sum(about["counts"]) == table.num_rows and len(about["counts"]) == len(about["parts"])


def _path(folder: str) -> str:
    return posixpath.join(posixpath.dirname(folder.rstrip("/")), INDEX_NAME)
