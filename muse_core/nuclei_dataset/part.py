"""One part opened for reading: its footer once, then only the row groups that a box can meet."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from muse_core.errors import DatasetError
from muse_core.geometry import Box
from muse_core.nuclei_dataset.write import PROVENANCE_KEY
from muse_core.schemas import NUCLEI

_GROUPS_AT_ONCE = 8  # 131,072 rows: some ten MB of the columns that queries want
_NAMES = ("slide_id", "project")
_ENDLESS = (-np.inf, -np.inf, np.inf, np.inf)


@dataclass(frozen=True)
class NucleiPart:
    """A file of nuclei of one slide. Opening reads its footer; the object may be used from several threads.

    Attributes:
        filesystem: where it lies.
        path: its path there.
    """

    filesystem: fs.FileSystem = field(repr=False)
    path: str

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """The footer.

        Raises:
            DatasetError: the file is not whole Parquet.
        """
        with self._open(None) as file:
            return file.metadata

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the file says of its making: slide_id, project, mpp_x, mpp_y, class_names and what inference added.

        Raises:
            DatasetError: it says nothing, so that it is no part of a nuclei dataset.
        """
        text = (self.metadata.metadata or {}).get(PROVENANCE_KEY)
        if text is None:
            raise DatasetError(
                f"{self.path}: not a part of a nuclei dataset, it has no metadata 'muse'; move it elsewhere"
            )
        return dict(json.loads(text))

    @property
    def slide_mpp(self) -> tuple[float, float]:
        """µm per level-0 px along x and y."""
        return float(self.provenance["mpp_x"]), float(self.provenance["mpp_y"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """What class ids mean."""
        return tuple(self.provenance["class_names"])

    @property
    def n_nuclei(self) -> int:
        """Rows of the file."""
        return int(self.metadata.num_rows)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns, with the types that `nuclei_schema` has: parts of earlier versions are read with them too."""
        found = self.metadata.schema.to_arrow_schema().remove_metadata()
        return pa.schema([NUCLEI.field(field.name) if field.name in _NAMES else field for field in found])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @cached_property
    def bounds_level0(self) -> NDArray[np.float64]:
        """(row groups, 4): left, top, right and bottom of each, level-0 px; endless where unknown."""
        names = [self.metadata.schema.column(number).path for number in range(self.metadata.num_columns)]
        x, y = names.index("x_level0"), names.index("y_level0")
        rows = []
        for number in range(self.metadata.num_row_groups):
            group = self.metadata.row_group(number)
            along_x, along_y = group.column(x).statistics, group.column(y).statistics
            known = along_x is not None and along_y is not None
            rows.append((along_x.min, along_y.min, along_x.max, along_y.max) if known else _ENDLESS)
        return np.array(rows, np.float64).reshape(-1, 4)

    def groups_in(self, box: Box) -> list[int]:
        """The row groups that may hold a nucleus inside a level-0 box."""
        left, top, right, bottom = self.bounds_level0.T
        meets = (left < box.right) & (right >= box.x) & (top < box.bottom) & (bottom >= box.y)
        return [int(number) for number in np.flatnonzero(meets)]

    def read(self, columns: Sequence[str], *, box: Box | None = None) -> Iterator[pa.Table]:
        """Rows in the order of the file, some ten thousand at a time.

        Args:
            columns: names of the columns to read.
            box: level-0 px, half-open (`x <= x_level0 < x + width`): boxes side by side share no nucleus; None for all.

        Raises:
            DatasetError: a column is unknown, or the file is damaged.
        """
        unknown = [name for name in columns if name not in self.columns]
        if unknown:
            raise DatasetError(f"{self.path}: no column {', '.join(unknown)}; it has {', '.join(self.columns)}")
        wanted = list(dict.fromkeys([*columns, *(("x_level0", "y_level0") if box else ())]))
        groups = list(range(self.metadata.num_row_groups)) if box is None else self.groups_in(box)
        with self._open(self.metadata) as file:
            for first in range(0, len(groups), _GROUPS_AT_ONCE):
                table = self._read_groups(file, groups[first : first + _GROUPS_AT_ONCE], wanted)
                yield (table if box is None else table.filter(_inside(table, box))).select(list(columns))

    def _read_groups(self, file: pq.ParquetFile, groups: list[int], columns: list[str]) -> pa.Table:
        try:
            # A few groups are read sooner than threads are woken.
            table = file.read_row_groups(groups, columns=columns, use_threads=len(groups) == _GROUPS_AT_ONCE)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from None
        return table.cast(pa.schema([self.schema.field(name) for name in table.column_names]))

    def _open(self, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(
                self.path, metadata=metadata, filesystem=self.filesystem, page_checksum_verification=True
            )
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from None


def _inside(table: pa.Table, box: Box) -> pa.ChunkedArray:
    x, y = table["x_level0"], table["y_level0"]
    across = pc.and_(pc.greater_equal(x, box.x), pc.less(x, box.right))
    return pc.and_(across, pc.and_(pc.greater_equal(y, box.y), pc.less(y, box.bottom)))


def _unreadable(path: str, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: damaged or not whole ({error}); delete it and run its slide again")
