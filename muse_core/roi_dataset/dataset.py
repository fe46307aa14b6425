"""The ROI dataset: rows streamed into Parquet parts, and the reader that training and queries use.

    OUT/rois/project=<P>/part-<slide>-<chunk>.parquet     columns: muse_core.schemas.ROIS

A row group holds one ROI, so that a random ROI costs one seek and reads nothing else; a footer grows by 1 kB a ROI for
it. Image bytes are JPEG already and stored as they are; everything else is compressed.

    dataset = RoiDataset("out")
    for sample in dataset.iterate(seed=0, epoch=3):
        view = sample.image.read(100, 200, 448, 448)
"""

import hashlib
import json
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from muse_core.errors import DatasetError
from muse_core.machine.files import safe_name, whole_file
from muse_core.roi_dataset.image import TILED_JPEG, RoiImage
from muse_core.roi_dataset.order import ONLY_READER, Shard, shuffled
from muse_core.schemas import NUCLEUS, ROIS, check_table

logger = logging.getLogger(__name__)

PROVENANCE_KEY = b"muse"
NO_PROJECT = "unknown"
SMALL_COLUMNS = tuple(name for name in ROIS.names if name not in ("nuclei", "image"))
_OPEN_FILES = 32  # footers of 40 ROIs are read in 1 ms, so that more open files would save little
_SCAN_THREADS = 8  # hides the latency of a remote filesystem

# In files `project` is a dictionary: pyarrow and pandas give a hive folder's name that type and refuse to merge others.
_FILE_SCHEMA = ROIS.set(
    ROIS.get_field_index("project"), ROIS.field("project").with_type(pa.dictionary(pa.int32(), pa.string()))
)
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
    """Where a chunk of a slide's ROIs lies in the dataset; names are percent-encoded and never leave their folder."""
    return (
        out / "rois" / f"project={safe_name(project or NO_PROJECT)}" / f"part-{safe_name(slide_id)}-{chunk:04d}.parquet"
    )


def parts_by_slide(out: Path) -> dict[str, list[Path]]:
    """Every part of the dataset, whatever project it is filed under, sorted; by the slide's `safe_name`."""
    # The chunk is what follows the last dash, so that the parts of `a` are not those of `a-0001`.
    name = re.compile(r"part-(.+)-\d+\.parquet")
    found: dict[str, list[Path]] = {}
    for path in sorted((out / "rois").glob("project=*/part-*.parquet")):
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
    schema = _FILE_SCHEMA.with_metadata({PROVENANCE_KEY: json.dumps(dict(metadata), sort_keys=True).encode()})
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


def read_provenance(path: Path) -> dict[str, Any]:
    """What a part says of its making; empty where it says nothing.

    Raises:
        DatasetError: the file is not whole Parquet.
    """
    with _opened(fs.LocalFileSystem(), str(path)) as file:
        text = (file.metadata.metadata or {}).get(PROVENANCE_KEY, b"{}")
    return dict(json.loads(text))


@dataclass(frozen=True, eq=False)
class RoiSample:
    """One ROI as training sees it.

    Attributes:
        index: its place in the dataset.
        roi_id: its name.
        slide_id: its slide.
        project: its project.
        mpp: µm/px of the image.
        image: its pixels, decoded where they are read.
        nuclei: (N, 3) float32 x, y, score in ROI px; (0, 3) where no detector was run.
    """

    index: int
    roi_id: str
    slide_id: str
    project: str
    mpp: float
    image: RoiImage = field(repr=False)
    nuclei: NDArray[np.float32] = field(repr=False)


_SAMPLE_COLUMNS = ["roi_id", "slide_id", "project", "mpp", "nuclei", "image", "image_format"]


class RoiDataset:
    """A ROI dataset opened for reading: any ROI by index, small columns as a table, a shuffled stream.

    Opening reads the footers only. The object is picklable and may be used from several threads and, forked or spawned,
    from several processes: each keeps a few files open of its own.
    """

    def __init__(self, source: str | Path | Sequence[str | Path]) -> None:
        """Find the parts and count their ROIs.

        Args:
            source: the folder that a build wrote, its `rois` folder, one part or a list of parts; a path or any URL
                that pyarrow opens (s3://bucket/out, gs://bucket/out).

        Raises:
            DatasetError: there is no dataset, it is empty, or a file in it is damaged or lacks columns.
        """
        self._filesystem, self._paths = _find_parts(source)
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            counts = list(pool.map(self._count_rois, self._paths))
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise DatasetError(f"{source}: the dataset holds no ROI; build it from slides with tissue")
        # Without their folder: a dataset that moved is the same.
        names = [f"{os.path.basename(path)} {count}" for path, count in zip(self._paths, counts, strict=True)]
        self.fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        self._local = threading.local()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    @property
    def ids(self) -> list[str]:
        """Every roi_id, in index order."""
        return [str(value) for value in self.table(["roi_id"])["roi_id"].to_pylist()]

    def table(self, columns: Sequence[str] = SMALL_COLUMNS) -> pa.Table:
        """Columns of all ROIs, in index order; all but nuclei and image unless others are asked for.

        Raises:
            DatasetError: a column is not in the schema, or a file can no longer be read.
        """
        unknown = [column for column in columns if column not in ROIS.names]
        if unknown:
            raise DatasetError(f"columns {unknown} are not in the ROI table; it has {', '.join(ROIS.names)}")
        schema = pa.schema([ROIS.field(column) for column in columns])

        def read(path: str) -> pa.Table:
            with _opened(self._filesystem, path) as file:
                return check_table(file.read(columns=list(columns), use_threads=False), schema, path)

        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            return pa.concat_tables(pool.map(read, self._paths))

    def read(self, index: int) -> RoiSample:
        """The ROI at 0 <= index < len.

        Raises:
            IndexError: there is no such index.
            DatasetError: its file is damaged or gone.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"ROI {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[number]
        first = int(self._ends[number - 1]) if number else 0
        part = self._open(path)
        group, row = part.locate(index - first)
        try:
            table = part.file.read_row_group(group, columns=_SAMPLE_COLUMNS, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None
        return _sample(table.slice(row, 1), index)

    def iterate(self, seed: int, epoch: int, *, shard: Shard = ONLY_READER, start: int = 0) -> Iterator[RoiSample]:
        """One reader's share of an epoch, in an order that depends on seed and epoch only.

        Over all ranks and workers each ROI comes exactly once. `start` ROIs (counted over all readers) are passed over:
        a run that has used n of an epoch goes on with start=n, in any topology.

        Args:
            seed: of the run.
            epoch: each has an order of its own.
            shard: which reader this is.
            start: ROIs of this epoch that were already used.
        """
        order = shuffled(len(self), seed, epoch)
        for position in shard.positions(start, len(order)):
            yield self.read(int(order[position]))

    def _count_rois(self, path: str) -> int:
        with _opened(self._filesystem, path) as file:
            missing = [name for name in ROIS.names if name not in file.schema_arrow.names]
            if missing:
                raise DatasetError(f"{path}: not a ROI table, it has no column {', '.join(missing)}; move it elsewhere")
            return int(file.metadata.num_rows)

    def _open(self, path: str) -> "_Part":
        """This thread's handle of a part; the one used longest ago is closed when there are too many."""
        if getattr(self._local, "process", None) != os.getpid():  # handles don't survive a fork
            self._local.process, self._local.parts = os.getpid(), OrderedDict()
        parts: OrderedDict[str, _Part] = self._local.parts
        if path not in parts:
            parts[path] = _Part(_opened(self._filesystem, path))
            if len(parts) > _OPEN_FILES:
                parts.popitem(last=False)[1].file.close()
        parts.move_to_end(path)
        return parts[path]


class RoiStream:
    """A dataset's ROIs epoch after epoch, with a place to resume from.

    Iterating gives the rest of the current epoch and does not move the place, since loaders read ahead of what is used:
    the training loop says what it used with `advance`. The place is the same for all ranks and fits any other topology.
    """

    def __init__(self, dataset: RoiDataset, *, seed: int, shard: Shard = ONLY_READER) -> None:
        self._dataset, self._seed, self._shard = dataset, seed, shard
        self.epoch, self.used = 0, 0

    def __iter__(self) -> Iterator[RoiSample]:
        return self._dataset.iterate(self._seed, self.epoch, shard=self._shard, start=self.used)

    def advance(self, n_rois: int) -> None:
        """Note that n more ROIs, counted over all ranks, were used; at the end of an epoch the next one begins."""
        self.used = min(self.used + n_rois, len(self._dataset))
        if self.used == len(self._dataset):
            self.next_epoch()

    def next_epoch(self) -> None:
        """Leave what remains of this epoch, such as an incomplete last step."""
        self.epoch, self.used = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The place, JSON-serialisable."""
        return {
            "seed": self._seed,
            "epoch": self.epoch,
            "used": self.used,
            "dataset": self._dataset.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place.

        Raises:
            DatasetError: the place is of another dataset, or of one that has changed since.
        """
        if state["dataset"] != self._dataset.fingerprint:
            raise DatasetError(
                f"the checkpoint was made with dataset {state['dataset']}, this one is {self._dataset.fingerprint}:"
                " parts were added, removed or rebuilt; give the same dataset, or start a new run from the weights"
            )
        self._seed, self.epoch, self.used = state["seed"], state["epoch"], state["used"]


class _Part:
    """An open file, and where each of its rows lies."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file = file
        metadata = file.metadata
        self._ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])

    def locate(self, row: int) -> tuple[int, int]:
        """Row group of a row, and its place in the group."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        return group, row - (int(self._ends[group - 1]) if group else 0)


def _find_parts(source: str | Path | Sequence[str | Path]) -> tuple[fs.FileSystem, list[str]]:
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


def _opened(filesystem: fs.FileSystem, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: damaged or not whole ({error}); delete it and build its slide again")


def _sample(row: pa.Table, index: int) -> RoiSample:
    values = {name: row[name][0].as_py() for name in ("roi_id", "slide_id", "project", "mpp", "image_format")}
    nuclei = row["nuclei"].combine_chunks().flatten()  # a null list has no rows
    xy_score = np.stack([nuclei.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "score")], axis=1)
    image = RoiImage(row["image"][0].as_py(), values.pop("image_format"), name=values["roi_id"])
    return RoiSample(index=index, image=image, nuclei=np.ascontiguousarray(xy_score, np.float32), **values)
