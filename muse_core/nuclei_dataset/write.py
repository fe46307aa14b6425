"""Nuclei into the dataset: tables of one slide, staged as they are found, then ordered and written as one part.

    header = NucleiHeader("S1", "LAB", (0.25, 0.25), ("lymphocyte", "tumour"), provenance)
    for number, points in enumerate(tile_groups):
        stage_nuclei(staging / f"{number}.parquet", nuclei_table(header, points))
    merge_nuclei(part_path(out, header), sorted(staging.glob("*.parquet")), header)

The part does not depend on how the nuclei were cut into tables, or on their order. Memory holds 24 bytes a nucleus and
some thousand rows, however many there are.
"""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.geometry import level0_to_um
from muse_core.machine.files import safe_name, whole_file
from muse_core.nuclei_dataset.curve import MAX_LEVEL0_PX, nucleus_ids, snapped
from muse_core.nuclei_dataset.geoparquet import GEO_KEY, covering, geo_metadata, wkb_points
from muse_core.nuclei_dataset.points import NucleusPoints
from muse_core.schemas import check_table, nuclei_schema

logger = logging.getLogger(__name__)

PROVENANCE_KEY = b"muse"
ROW_GROUP_ROWS = 16_384  # about 3 mm² of a cellular slide: a box of 1 mm² meets a handful
_STAGED_ROWS = 2_048  # row groups of staged tables: what the merge reads too much of is one of these a range
_MERGE_ROWS = 8 * ROW_GROUP_ROWS
# Filters look at these; the rest would only make the footer longer.
_STATISTICS = ["slide_id", "project", "nucleus_id", "x_level0", "y_level0", "x_um", "y_um", "class_id", "class_name"]
_STATISTICS += ["score", "in_tissue", "bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax"]


@dataclass(frozen=True)
class NucleiHeader:
    """What all nuclei of a slide share.

    Attributes:
        slide_id: the slide.
        project: its project; not empty.
        slide_mpp: µm per level-0 px along x and y.
        class_names: what class ids and probability columns mean.
        provenance: where the nuclei come from, JSON-serialisable; kept in the part under the key `muse`.
        embedding_size: length of each nucleus's embedding; 0 for none.
    """

    slide_id: str
    project: str
    slide_mpp: tuple[float, float]
    class_names: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    embedding_size: int = 0

    @property
    def schema(self) -> pa.Schema:
        """The columns of this slide's tables."""
        return nuclei_schema(self.class_names, embedding_size=self.embedding_size)


class WrittenNuclei(NamedTuple):
    """What a part holds, and how many nuclei were left out because another lies in the same 1/64 px."""

    n_nuclei: int
    n_doubled: int


def part_path(out: Path, header: NucleiHeader, number: int = 0) -> Path:
    """Where a slide's nuclei lie in the output folder; names never leave their folder, nor say `key=value`."""
    return slide_folder(out, header.project, header.slide_id) / f"part-{number:04d}.parquet"


def slide_folder(out: Path, project: str, slide_id: str) -> Path:
    """The folder of a slide's nuclei."""
    return out / "nuclei" / safe_name(project) / safe_name(slide_id)


def parts_of_slide(out: Path, slide_id: str) -> list[Path]:
    """Every part of one slide, whichever project it is filed under, sorted."""
    return sorted((out / "nuclei").glob(f"*/{safe_name(slide_id)}/*.parquet"))  # no name of ours is a pattern


def has_parts(out: Path) -> bool:
    """Whether an output folder holds any part, of any layout."""
    return any(out.glob("nuclei/*/*/*.parquet"))


def nuclei_table(header: NucleiHeader, points: NucleusPoints) -> pa.Table:
    """The dataset's columns for some nuclei of a slide; positions are rounded to 1/64 level-0 px.

    Raises:
        DatasetError: arrays of different lengths, a class id without a name, or a position that is no place on a slide.
    """
    _check_points(header, points)
    xy = snapped(points.xy_level0)
    xy_um = level0_to_um(xy, header.slide_mpp).astype(np.float32)
    class_ids = np.asarray(points.class_ids, np.int16)
    columns: dict[str, pa.Array] = {
        "slide_id": pa.repeat(header.slide_id, len(xy)),
        "project": pa.repeat(header.project, len(xy)),
        "nucleus_id": nucleus_ids(xy),
        "x_level0": np.ascontiguousarray(xy[:, 0]),
        "y_level0": np.ascontiguousarray(xy[:, 1]),
        "x_um": np.ascontiguousarray(xy_um[:, 0]),
        "y_um": np.ascontiguousarray(xy_um[:, 1]),
        "class_id": class_ids,
        "class_name": pa.DictionaryArray.from_arrays(class_ids.astype(np.int32), pa.array(header.class_names)),
        "score": np.asarray(points.score, np.float32),
        "in_tissue": np.asarray(points.in_tissue, bool),
        "geometry": wkb_points(xy),
        "bbox": covering(xy),
    }
    for number, name in enumerate(header.class_names):
        columns[f"p_{name}"] = np.ascontiguousarray(points.probabilities[:, number], np.float32)
    if points.embedding is not None:
        values = pa.array(np.ascontiguousarray(points.embedding, np.float16).ravel())  # (N, E) -> (N*E,)
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, header.embedding_size)
    return pa.table([columns[name] for name in header.schema.names], schema=header.schema)


def stage_nuclei(path: Path, table: pa.Table) -> None:
    """Keep a table of `nuclei_table` until its slide is merged; the file appears when whole.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    ordered = table.sort_by("nucleus_id")
    with whole_file(path) as temporary:
        pq.write_table(ordered, temporary, row_group_size=_STAGED_ROWS, compression="zstd", write_page_checksum=True)


def write_nuclei(path: Path, tables: Iterable[pa.Table], header: NucleiHeader) -> WrittenNuclei:
    """Order tables of `nuclei_table` and write them as one part, in bounded memory; see `merge_nuclei`.

    Args:
        path: the part, from `part_path`.
        tables: of one slide, of any size and order.
        header: what they share.

    Raises:
        DatasetError: a table has other columns than the header says.
        OutputError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=path.parent) as name:
        staged = []
        for number, table in enumerate(tables):
            staged.append(Path(name) / f".{number:06d}.tmp")  # what sweep_temporaries removes after a kill
            stage_nuclei(staged[-1], check_table(table, header.schema, f"nuclei of slide {header.slide_id}"))
        return merge_nuclei(path, staged, header)


def merge_nuclei(path: Path, staged: Sequence[Path], header: NucleiHeader) -> WrittenNuclei:
    """Order staged tables along the curve and write them as one part; the staged files are left as they are.

    Of nuclei in the same 1/64 px the surest is kept. A slide without nuclei gets a part without rows.

    Args:
        path: the part, from `part_path`; it appears when whole.
        staged: files of `stage_nuclei`.
        header: what they share.

    Raises:
        DatasetError: a staged file is damaged or is not of this header.
        OutputError: the disk is full or the folder cannot be written.
    """
    runs = [_Staged(one, header) for one in staged]
    metadata = {GEO_KEY: geo_metadata(_bounds(runs)), PROVENANCE_KEY: _provenance(header)}
    schema = header.schema.with_metadata(metadata)
    n_written = 0
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, **_writer_options(header)) as writer:
        for table in _row_groups(_ordered(runs, header)):
            writer.write_table(table.replace_schema_metadata(metadata), row_group_size=ROW_GROUP_ROWS)
            n_written += len(table)
    n_doubled = sum(len(run.ids) for run in runs) - n_written
    if n_doubled:
        logger.info("slide %s: %d nuclei in the place of another were left out", header.slide_id, n_doubled)
    return WrittenNuclei(n_written, n_doubled)


class _Staged:
    """One staged file: its ids in memory, its rows read where they are wanted."""

    def __init__(self, path: Path, header: NucleiHeader) -> None:
        self._path = path
        with self._open() as file:
            if not file.schema_arrow.equals(header.schema):
                raise DatasetError(
                    f"{path}: columns differ from those of slide {header.slide_id}; delete it and run the slide again"
                )
            self.ids: NDArray[np.int64] = file.read(["nucleus_id"])["nucleus_id"].to_numpy()
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            self.bounds = [_group_bounds(group) for group in groups if group.num_rows]

    def rows(self, low: int, high: int) -> pa.Table | None:
        """The rows with low <= nucleus_id < high; None where there is none."""
        first, end = (int(place) for place in np.searchsorted(self.ids, [low, high]))
        if first == end:
            return None
        groups = range(first // _STAGED_ROWS, (end - 1) // _STAGED_ROWS + 1)
        with self._open() as file:
            table = file.read_row_groups(list(groups), use_threads=False)
        return table.slice(first - groups[0] * _STAGED_ROWS, end - first)

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"{self._path}: damaged or not whole ({error}); delete it and run its slide again"
            ) from None


def _ordered(runs: Sequence[_Staged], header: NucleiHeader) -> Iterator[pa.Table]:
    """All rows by nucleus_id, each id once, in tables of some ten thousand."""
    ids = np.sort(np.concatenate([run.ids for run in runs])) if runs else np.empty(0, np.int64)
    # Edges are ids, so that all rows of one id meet in one table.
    edges = [*np.unique(ids[::_MERGE_ROWS]).tolist(), int(ids[-1]) + 1] if len(ids) else []
    for low, high in pairwise(edges):
        found = [table for run in runs if (table := run.rows(low, high)) is not None]
        table = pa.concat_tables(found).combine_chunks()
        table = table.sort_by([("nucleus_id", "ascending"), ("score", "descending"), ("class_id", "ascending")])
        here = table["nucleus_id"].to_numpy()
        kept = table.filter(pa.array(np.append(True, here[1:] != here[:-1])))
        yield _with_same_dictionaries(kept, header)


def _with_same_dictionaries(table: pa.Table, header: NucleiHeader) -> pa.Table:
    """Class names as all classes in their order, whichever a staged file happened to hold."""
    class_ids = table["class_id"].combine_chunks().cast(pa.int32())
    names = pa.DictionaryArray.from_arrays(class_ids, pa.array(header.class_names))
    place = header.schema.get_field_index("class_name")
    return table.set_column(place, header.schema.field(place), names)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ROW_GROUP_ROWS, the last one aside: row groups don't depend on the staging."""
    held: list[pa.Table] = []
    for table in tables:
        held = [pa.concat_tables([*held, table])]
        while len(held[0]) >= ROW_GROUP_ROWS:
            yield held[0].slice(0, ROW_GROUP_ROWS).combine_chunks()
            held = [held[0].slice(ROW_GROUP_ROWS)]
    if held and len(held[0]):
        yield held[0].combine_chunks()


def _writer_options(header: NucleiHeader) -> dict[str, Any]:
    statistics = [*_STATISTICS, *(f"p_{name}" for name in header.class_names)]
    return {
        "compression": "zstd",
        "use_dictionary": ["slide_id", "project", "class_name"],
        "column_encoding": {"nucleus_id": "DELTA_BINARY_PACKED"},
        "write_statistics": statistics,
        "write_page_index": True,
        "write_page_checksum": True,
    }


def _bounds(runs: Sequence[_Staged]) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of all nuclei, level-0 px."""
    boxes = np.array([box for run in runs for box in run.bounds], np.float64).reshape(-1, 4)
    if not len(boxes):
        return None
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom


def _group_bounds(group: pq.RowGroupMetaData) -> tuple[float, float, float, float]:
    columns = [group.column(number) for number in range(group.num_columns)]
    x, y = (next(c.statistics for c in columns if c.path_in_schema == name) for name in ("x_level0", "y_level0"))
    return x.min, y.min, x.max, y.max


def _provenance(header: NucleiHeader) -> bytes:
    mpp_x, mpp_y = header.slide_mpp
    facts = {"slide_id": header.slide_id, "project": header.project, "mpp_x": mpp_x, "mpp_y": mpp_y}
    facts |= {"class_names": list(header.class_names), "embedding_size": header.embedding_size}
    return json.dumps({**header.provenance, **facts}, sort_keys=True).encode()


def _check_points(header: NucleiHeader, points: NucleusPoints) -> None:
    n_nuclei, n_classes = len(points.xy_level0), len(header.class_names)
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "xy_level0": (points.xy_level0, (n_nuclei, 2)),
        "class_ids": (points.class_ids, (n_nuclei,)),
        "score": (points.score, (n_nuclei,)),
        "probabilities": (points.probabilities, (n_nuclei, n_classes)),
        "in_tissue": (points.in_tissue, (n_nuclei,)),
    }
    if header.embedding_size:
        wanted["embedding"] = (points.embedding, (n_nuclei, header.embedding_size))
    for name, (array, shape) in wanted.items():
        if np.shape(array) != shape:
            raise DatasetError(f"slide {header.slide_id}: {name} of shape {np.shape(array)}; {shape} needed")
    if n_nuclei and not (np.min(points.class_ids) >= 0 and np.max(points.class_ids) < n_classes):
        raise DatasetError(
            f"slide {header.slide_id}: class ids {np.min(points.class_ids)} to {np.max(points.class_ids)}; "
            f"0 to {n_classes - 1} needed"
        )
    xy = np.asarray(points.xy_level0)
    if not ((xy >= 0) & (xy < MAX_LEVEL0_PX)).all():  # false for NaN too
        raise DatasetError(
            f"slide {header.slide_id}: a nucleus lies outside 0 to {MAX_LEVEL0_PX} level-0 px; give points on the slide"
        )
