"""ROI rows to Parquet parts."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse_core.machine.files import safe_name, whole_file
from muse_core.roi_dataset.image import TILED_JPEG
from muse_core.roi_dataset.part import PROVENANCE_KEY
from muse_core.schemas import NO_PROJECT, NUCLEUS, ROIS, SMALL_COLUMNS

logger = logging.getLogger(__name__)

_NUCLEI_LEAVES = [f"nuclei.list.element.{leaf.name}" for leaf in NUCLEUS]
_WRITER_OPTIONS: dict[str, Any] = {
    "compression": {**dict.fromkeys([*SMALL_COLUMNS, *_NUCLEI_LEAVES], "zstd"), "image": "none"},
    "use_dictionary": False,  # of one value: only larger
    # What queries filter by; statistics of images would cost 8 ms each, of the rest a third of the footer. A page index
    # is of no use where a row group is one page.
    "write_statistics": ["slide_id", "project", "x_level0", "y_level0", "mpp", "tissue_fraction", "n_nuclei"],
    "write_page_checksum": True,  # 0.5 ms a ROI, so that a flipped bit is an error and not a strange picture
}


@dataclass(frozen=True, eq=False)
class RoiRow:
    """One ROI to be stored; the columns of schemas.ROIS, which has their units.

    Attributes:
        nuclei: (N, 3) float32 x, y, score in ROI px; None where no detector was run.
        image: the file's bytes in `image_format`.
    """

    roi_id: str
    slide_id: str
    case_id: str
    project: str
    x_level0: float
    y_level0: float
    width_level0: float
    height_level0: float
    mpp: float
    width_px: int
    height_px: int
    tissue_fraction: float | None
    nuclei: NDArray[np.float32] | None
    image: bytes
    image_format: str = TILED_JPEG


class Written(NamedTuple):
    """What a part holds."""

    n_rois: int
    n_nuclei: int


def part_path(out: Path, project: str, slide_id: str, chunk: int) -> Path:
    """Where a chunk of a slide's ROIs lies in the dataset; names never leave their folder, nor say `key=value`."""
    return out / "rois" / safe_name(project or NO_PROJECT) / f"part-{safe_name(slide_id)}-{chunk:04d}.parquet"


def parts_by_slide(out: Path) -> dict[str, list[Path]]:
    """Every part of the dataset, whatever project it is filed under, sorted; by the slide's `safe_name`."""
    # The chunk is what follows the last dash, so that the parts of `a` are not those of `a-0001`.
    name = re.compile(r"part-(.+)-\d+\.parquet")
    found: dict[str, list[Path]] = {}
    for path in sorted((out / "rois").glob("*/part-*.parquet")):
        if match := name.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def parts_of_slide(out: Path, slide_id: str) -> list[Path]:
    """Every part of one slide, sorted; for many slides, `parts_by_slide` looks once."""
    return parts_by_slide(out).get(safe_name(slide_id), [])


def write_rois(path: Path, rows: Iterable[RoiRow], metadata: Mapping[str, Any]) -> Written:
    """Stream rows into one Parquet part, one ROI in memory at a time; with no rows no file is written.

    Args:
        path: the part; it appears when whole.
        rows: the ROIs in the order they are stored.
        metadata: provenance, JSON-serialisable; kept in the file under the key `muse`.

    Returns:
        How many ROIs and nuclei were written.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    rows = iter(rows)
    first = next(rows, None)
    n_rois = n_nuclei = 0
    if first is None:
        return Written(n_rois, n_nuclei)
    schema = ROIS.with_metadata({PROVENANCE_KEY: json.dumps(dict(metadata), sort_keys=True).encode()})
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, **_WRITER_OPTIONS) as writer:
        for row in chain([first], rows):
            writer.write_batch(_batch(row, schema))
            n_rois += 1
            n_nuclei += 0 if row.nuclei is None else len(row.nuclei)
    logger.debug("%s: %d ROIs, %d nuclei", path, n_rois, n_nuclei)
    return Written(n_rois, n_nuclei)


def _batch(row: RoiRow, schema: pa.Schema) -> pa.RecordBatch:
    values = {name: getattr(row, name) for name in ROIS.names if name not in ("n_nuclei", "nuclei")}
    values["project"] = row.project or NO_PROJECT
    values["n_nuclei"] = None if row.nuclei is None else len(row.nuclei)
    arrays = [
        _nuclei_array(row.nuclei) if column.name == "nuclei" else pa.array([values[column.name]], column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _nuclei_array(nuclei: NDArray[np.float32] | None) -> pa.Array:
    kind = ROIS.field("nuclei").type
    if nuclei is None:
        return pa.nulls(1, kind)
    columns = np.ascontiguousarray(np.asarray(nuclei, np.float32).reshape(-1, 3).T)  # (N, 3) -> (3, N)
    points = pa.StructArray.from_arrays([pa.array(column) for column in columns], fields=list(NUCLEUS))
    return pa.ListArray.from_arrays(pa.array([0, len(points)], pa.int32()), points, type=kind)
