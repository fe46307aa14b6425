"""The ROI dataset as training and queries read it; `roi_dataset.write` makes its parts.

    OUT/rois/<project>/part-<slide>-<chunk>.parquet     columns: muse_core.schemas.ROIS

A row group holds one ROI, so that a random ROI costs one seek and reads nothing else; a footer grows by 1 kB a ROI for
it. Image bytes are JPEG already and stored as they are; everything else is compressed. On a disk of this machine only
the tiles of an image that are looked at are read, where it has checksums of them; elsewhere, whole.

    dataset = RoiDataset("out")
    for sample in dataset.iterate(seed=0, epoch=3):
        view = sample.image.read(100, 200, 448, 448)
"""

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from muse_core.errors import DatasetError
from muse_core.roi_dataset.image import TILED_JPEG, RoiImage
from muse_core.roi_dataset.index import INDEXED_FROM, Index, read_index, write_index
from muse_core.roi_dataset.order import ONLY_READER, Shard, shuffled
from muse_core.roi_dataset.part import Part, Parts, find_parts, opened_part, opened_raw, unreadable_part
from muse_core.schemas import ROIS, SMALL_COLUMNS, check_table

logger = logging.getLogger(__name__)

_OPEN_FILES = 32  # footers of 40 ROIs are read in 1 ms, so that more open files would save little
_SCAN_THREADS = 8  # hides the latency of a remote filesystem


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


_SMALL_SAMPLE_COLUMNS = ["roi_id", "slide_id", "project", "mpp", "nuclei", "image_format"]
_SAMPLE_COLUMNS = [*_SMALL_SAMPLE_COLUMNS, "image"]


class RoiDataset:
    """A ROI dataset opened for reading: any ROI by index, small columns as a table, a shuffled stream.

    Opening reads the footers only, or the index of a dataset of many parts (`roi_dataset.index`). The object is
    picklable and may be used from several threads and, forked or spawned, from several processes: each keeps a few
    files open of its own.
    """

    def __init__(self, source: str | Path | Sequence[str | Path]) -> None:
        """Find the parts and count their ROIs.

        Args:
            source: the folder that a build wrote, its `rois` folder, one part or a list of parts; a path or any URL
                that pyarrow opens (s3://bucket/out, gs://bucket/out).

        Raises:
            DatasetError: there is no dataset, it is empty, or a file in it is damaged or lacks columns.
        """
        parts = find_parts(source)
        self._filesystem, self._paths = parts.filesystem, parts.paths
        self._small: pa.Table | None = None  # small columns of all ROIs, of a dataset with an index
        counts = self._indexed(parts) or self._counted()
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
        return {key: value for key, value in self.__dict__.items() if key != "_local"} | {"_small": None}

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
        if self._small is not None and set(columns) <= set(SMALL_COLUMNS):
            return self._small.select(list(columns))
        schema = pa.schema([ROIS.field(column) for column in columns])

        def read(path: str) -> pa.Table:
            with opened_part(self._filesystem, path) as file:
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
            stored = part.image_bytes(group)
            columns = _SAMPLE_COLUMNS if stored is None else _SMALL_SAMPLE_COLUMNS
            found = part.file.read_row_group(group, columns=columns, use_threads=False).slice(row, 1)
            image = None
            if stored is not None and found["image_format"][0].as_py() == TILED_JPEG:
                image = RoiImage.of_stored(stored, name=found["roi_id"][0].as_py())
            if image is None and stored is not None:  # without checksums of its tiles: whole, by that of its page
                found = part.file.read_row_group(group, columns=_SAMPLE_COLUMNS, use_threads=False).slice(row, 1)
        except (pa.ArrowException, OSError) as error:
            raise unreadable_part(path, error) from None
        return _sample(found, index, image)

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

    def _indexed(self, parts: Parts) -> list[int] | None:
        """ROIs of each part by the dataset's index, which is made where there is none; None of one with few parts."""
        if parts.folder is None or len(parts.paths) < INDEXED_FROM:
            return None
        index = read_index(parts.filesystem, parts.folder, parts.infos)
        if index is None:
            index = Index(self._counted(), self.table(SMALL_COLUMNS))
            write_index(parts.filesystem, parts.folder, parts.infos, index)
        self._small = index.table
        return index.counts

    def _counted(self) -> list[int]:
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            return list(pool.map(self._count_rois, self._paths))

    def _count_rois(self, path: str) -> int:
        with opened_part(self._filesystem, path) as file:
            missing = [name for name in ROIS.names if name not in file.schema_arrow.names]
            if missing:
                raise DatasetError(f"{path}: not a ROI table, it has no column {', '.join(missing)}; move it elsewhere")
            return int(file.metadata.num_rows)

    def _open(self, path: str) -> "Part":
        """This thread's handle of a part; the one used longest ago is closed when there are too many."""
        if getattr(self._local, "process", None) != os.getpid():  # handles don't survive a fork
            self._local.process, self._local.parts = os.getpid(), OrderedDict()
        parts: OrderedDict[str, Part] = self._local.parts
        if path not in parts:
            raw = opened_raw(self._filesystem, path)
            parts[path] = Part(opened_part(self._filesystem, path, raw), raw, path)
            if len(parts) > _OPEN_FILES:
                parts.popitem(last=False)[1].file.close()
        parts.move_to_end(path)
        return parts[path]


def _sample(row: pa.Table, index: int, image: RoiImage | None) -> RoiSample:
    """A row as training sees it; its image from the row unless it is read by itself."""
    values = {name: row[name][0].as_py() for name in ("roi_id", "slide_id", "project", "mpp", "image_format")}
    nuclei = row["nuclei"].combine_chunks().flatten()  # a null list has no rows
    xy_score = np.stack([nuclei.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "score")], axis=1)
    image_format = values.pop("image_format")
    if image is None:
        image = RoiImage(row["image"][0].as_py(), image_format, name=values["roi_id"])
    return RoiSample(index=index, image=image, nuclei=np.ascontiguousarray(xy_score, np.float32), **values)
