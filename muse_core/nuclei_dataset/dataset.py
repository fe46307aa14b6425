"""The nuclei dataset opened for questions: boxes and polygons of one slide, or SQL and data frames over all of them.

dataset = NucleiDataset("out")
table = dataset.within("S1", Box(1000, 2000, 1000, 1000))  # 1 mm²: left, top, width and height in µm
dataset.duckdb().sql("SELECT slide_id, class_name, count(*) FROM nuclei GROUP BY ALL")
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import shapely
from pyarrow import fs
from shapely.geometry.base import BaseGeometry

from muse_core.cohort.objects import open_store, url_of_path
from muse_core.cohort.uris import scheme_of
from muse_core.errors import ConfigError, DatasetError
from muse_core.geometry import Box
from muse_core.machine.files import normal_form
from muse_core.nuclei_dataset.part import NucleiPart

if TYPE_CHECKING:
    import duckdb
    import geopandas
    from matplotlib.figure import Figure

    from muse_core.nuclei_dataset.notebook import NotebookView

Unit = Literal["um", "level0"]
Area: TypeAlias = Box | BaseGeometry
_HEAVY = ("geometry", "bbox", "embedding")  # left out unless asked for: the position has columns of its own


class NucleiDataset:
    """All nuclei of an output folder. Opening lists the files; footers are read when a slide is asked for."""

    def __init__(self, source: str | Path) -> None:
        """Find the parts.

        Args:
            source: the folder that inference wrote, or its `nuclei` folder; a path or any URL that pyarrow opens.

        Raises:
            DatasetError: there is no nuclei dataset, or inference finished no slide of it.
        """
        self._filesystem, self.root = _find(source)
        #: of the `nuclei` folder in a store; "" on this machine
        self.url = "" if isinstance(self._filesystem, fs.LocalFileSystem) else f"{scheme_of(str(source))}://{self.root}"
        selector = fs.FileSelector(self.root, recursive=True)
        paths = sorted(info.path for info in self._filesystem.get_file_info(selector) if info.is_file)
        self._parts: dict[str, list[NucleiPart]] = {}
        for path in paths:
            if (folder := _slide_folder_of(path[len(self.root) :])) is not None:
                part = NucleiPart(self._filesystem, path)
                self._parts.setdefault(_slide_of(folder, part), []).append(part)
        if not self._parts:
            raise DatasetError(f"{source}: {_why_no_parts(self._filesystem, self.root)}")

    @property
    def slide_ids(self) -> list[str]:
        """Every slide that has a part, sorted."""
        return sorted(self._parts)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all slides, in the order they are first met."""
        return tuple(dict.fromkeys(name for slide_id in self.slide_ids for name in self.part(slide_id).class_names))

    def __len__(self) -> int:
        """Nuclei of all slides; reads every footer."""
        return sum(part.n_nuclei for parts in self._parts.values() for part in parts)

    def parts(self, slide_id: str) -> list[NucleiPart]:
        """The files of a slide.

        Raises:
            DatasetError: the dataset has no such slide.
        """
        slide_id = normal_form(slide_id)
        if slide_id not in self._parts:
            known = ", ".join(self.slide_ids[:5]) + (", ..." if len(self._parts) > 5 else "")
            raise DatasetError(f"slide {slide_id!r}: not in {self.root}; there are {len(self._parts)}: {known}")
        return self._parts[slide_id]

    def part(self, slide_id: str) -> NucleiPart:
        """The first file of a slide: its footer says what holds for all."""
        return self.parts(slide_id)[0]

    def slides(self) -> pa.Table | None:
        """The slides table beside the dataset, one row a slide of the manifest; None where there is none.

        Raises:
            DatasetError: it cannot be read.
        """
        return _slides_table(self._filesystem, self._slides_path)

    def tables(
        self,
        slide_id: str,
        columns: Sequence[str] | None = None,
        *,
        area: Area | None = None,
        frame: Unit = "um",
    ) -> Iterator[pa.Table]:
        """A slide's nuclei, some ten thousand at a time, in the order of the curve.

        Args:
            slide_id: the slide.
            columns: names of columns; None for all but geometry, bbox and embedding.
            area: a box, or a Shapely polygon or multipolygon; only the row groups that can hold a nucleus inside it are
                read. Boxes are half-open, so that boxes side by side share no nucleus; on a polygon's outline is
                outside.
            frame: what the area is in, µm or level-0 px.

        Raises:
            DatasetError: no such slide or column, or a file is damaged.
            ConfigError: an unknown frame.
        """
        for part in self.parts(slide_id):
            wanted = list(columns or _light(part))
            if area is None or isinstance(area, Box):
                yield from part.read(wanted, box=None if area is None else _box_to_level0(area, part, frame))
            else:
                yield from _inside_polygon(part, _polygon_to_level0(area, part, frame), wanted)

    def within(
        self, slide_id: str, area: Area, *, frame: Unit = "um", columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The nuclei of a slide in a box or polygon, in one table; arguments and errors as in `tables`."""
        found = list(self.tables(slide_id, columns, area=area, frame=frame))
        return pa.concat_tables(found) if found else self.nothing(slide_id, columns)

    def nothing(self, slide_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """No nuclei of a slide, in the columns that they would have."""
        part = self.part(slide_id)
        return pa.schema([part.schema.field(name) for name in columns or _light(part)]).empty_table()

    def arrow(self) -> pyarrow.dataset.Dataset:
        """All nuclei as a lazy Arrow dataset; a column that only some slides have is null elsewhere."""
        paths = [part.path for parts in self._parts.values() for part in parts]
        schema = pa.unify_schemas([part.schema for parts in self._parts.values() for part in parts])
        return pyarrow.dataset.dataset(paths, schema=schema, filesystem=self._filesystem, format="parquet")

    def duckdb(self) -> "duckdb.DuckDBPyConnection":
        """A new in-memory database with the views `nuclei` and, where there is a slides table, `slides`."""
        import duckdb  # here: 30 MB that boxes and polygons do without

        connection = duckdb.connect()
        root, slides = self.root, self._slides_path
        if self.url:
            files, _ = open_store(self.url)
            connection.register_filesystem(files)
            scheme = self.url.partition("://")[0]
            root, slides = self.url, f"{scheme}://{slides}"
        connection.execute("SET parquet_metadata_cache = true")
        # Names of folders, of the user's own too, are no columns; and slides of another model have other columns.
        options = "hive_partitioning = false, union_by_name = true"
        parts = _sql_path(root, "/*/*/part-*.parquet")
        connection.execute(f"CREATE VIEW nuclei AS FROM read_parquet({parts}, {options})")
        if self._filesystem.get_file_info(self._slides_path).type == fs.FileType.File:
            connection.execute(f"CREATE VIEW slides AS FROM read_parquet({_sql_path(slides)})")
        return connection

    def geopandas(self, slide_id: str, *, area: Area | None = None, frame: Unit = "um") -> "geopandas.GeoDataFrame":
        """A slide's nuclei as a GeoDataFrame of points in level-0 px, without CRS.

        Args:
            slide_id: the slide.
            area: a box or polygon; None for the whole slide, which then is in memory.
            frame: what the area is in, µm or level-0 px.

        Raises:
            DatasetError: no such slide, or a file is damaged.
            ConfigError: an unknown frame.
        """
        import geopandas  # here: it takes half a second, and nothing else needs it

        found = list(self.tables(slide_id, area=area, frame=frame))
        table = pa.concat_tables(found) if found else self.nothing(slide_id, None)
        points = geopandas.points_from_xy(table["x_level0"].to_numpy(), table["y_level0"].to_numpy())
        return geopandas.GeoDataFrame(table.to_pandas(), geometry=points)

    def view(
        self,
        slide_id: str | None = None,
        *,
        slides: Path | None = None,
        labels: Path | None = None,
        height_px: int = 720,
    ) -> "NotebookView":
        """The page of `muse view` inside a notebook: give it as a cell's last value.

        Args:
            slide_id: the slide to open; None for all.
            slides: where the slides are, if not where they were recorded.
            labels: folder of the labels; None for `lab` in the run.
            height_px: of the frame.

        Raises:
            ConfigError: the viewer does not start.
        """
        from muse_core.nuclei_dataset.notebook import NotebookView  # here: only notebooks need it

        source = str(os.path.dirname(self.root))
        return NotebookView(source, slide_id, slides=slides, labels=labels, height_px=height_px)

    def plot(self, slide_id: str, area: Area, *, slide: Path | None = None) -> "Figure":
        """A picture for papers, with scale bar and legend.

        Args:
            slide_id: the slide.
            area: a box or polygon, µm.
            slide: the slide's file, whose pixels lie beneath; None for nuclei on white.

        Raises:
            DatasetError: no such slide, or a file is damaged.
            ConfigError: Matplotlib is not installed, or the area is empty.
            SlideReadError: the slide cannot be read.
        """
        from muse_core.nuclei_dataset.plot import plot_nuclei  # here: it reads slides, and nothing else here does

        part = self.part(slide_id)
        table = self.within(slide_id, area, columns=["x_um", "y_um", "class_name"])
        return plot_nuclei(
            table, area, part.class_names, part.slide_mpp, slide=slide, scene=part.provenance.get("scene")
        )

    @property
    def _slides_path(self) -> str:
        return f"{os.path.dirname(self.root)}/slides.parquet"


def _slides_table(filesystem: fs.FileSystem, path: str) -> pa.Table | None:
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return None
    try:
        return pq.read_table(path, filesystem=filesystem, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run the slides again to have it written") from None


def _why_no_parts(filesystem: fs.FileSystem, root: str) -> str:
    """What is the matter with a folder without parts: inference finished no slide of it, or wrote elsewhere."""
    out = os.path.dirname(root) if os.path.basename(root) == "nuclei" else root
    slides = _slides_table(filesystem, f"{out}/slides.parquet")
    rows = [] if slides is None else slides.to_pylist()
    if not rows or any(row.get("status") not in {"failed", "skipped"} for row in rows):
        return "no nuclei dataset, it has no part; make one with muse infer"
    reasons = Counter(str(row.get("reason")) for row in rows)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"no nuclei: of its {len(rows)} slides none is finished ({counted}); slides.parquet says why"


def _inside_polygon(part: NucleiPart, area: BaseGeometry, columns: list[str]) -> Iterator[pa.Table]:
    """The rows inside a level-0 polygon."""
    shapely.prepare(area)
    for table in part.read(list(dict.fromkeys([*columns, "x_level0", "y_level0"])), box=_box_around(area)):
        hits = shapely.contains_xy(area, table["x_level0"].to_numpy(), table["y_level0"].to_numpy())
        yield table.filter(pa.array(hits)).select(columns)


def _polygon_to_level0(polygon: BaseGeometry, part: NucleiPart, frame: Unit) -> BaseGeometry:
    if _checked(frame) == "level0":
        return polygon
    return shapely.transform(polygon, lambda xy: xy / part.slide_mpp)


def _box_to_level0(box: Box, part: NucleiPart, frame: Unit) -> Box:
    if _checked(frame) == "level0":
        return box
    mpp_x, mpp_y = part.slide_mpp
    return Box(box.x / mpp_x, box.y / mpp_y, box.width / mpp_x, box.height / mpp_y)


def _checked(frame: str) -> str:
    if frame not in get_args(Unit):
        raise ConfigError(f"frame {frame!r}: needs {' or '.join(get_args(Unit))}")
    return frame


def _box_around(polygon: BaseGeometry) -> Box:
    left, top, right, bottom = polygon.bounds if not polygon.is_empty else (0.0, 0.0, 0.0, 0.0)
    return Box(left, top, right - left, bottom - top)


def _light(part: NucleiPart) -> list[str]:
    return [name for name in part.columns if name not in _HEAVY]


def _sql_path(path: str, pattern: str = "") -> str:
    """A string of SQL: a path of which DuckDB takes nothing for a pattern, and a pattern below it."""
    literal = re.sub(r"([*?\[])", r"[\1]", path)
    return "'" + literal.replace("'", "''") + pattern + "'"


def _find(source: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem and the `nuclei` folder of a source."""
    source = url_of_path(source)
    if isinstance(source, Path) or "://" not in source:
        filesystem, root = fs.LocalFileSystem(), os.path.abspath(source)
    else:
        filesystem, root = _in_store(source)
    outer, inner = filesystem.get_file_info([root, f"{root}/nuclei"])
    if outer.type == fs.FileType.File:
        raise DatasetError(f"{source}: a file; give the folder that muse infer --out wrote")
    if outer.type != fs.FileType.Directory:
        raise DatasetError(f"{source}: no such folder; give the folder that muse infer --out wrote")
    return filesystem, inner.path if inner.type == fs.FileType.Directory else root


def _in_store(url: str) -> tuple[fs.FileSystem, str]:
    """By pyarrow's own driver, which S3 and Google's store have, or else by fsspec's."""
    try:
        filesystem, root = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError):
        try:
            files, root = open_store(url)
        except ConfigError as error:
            raise DatasetError(str(error)) from None
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(files))
    return filesystem, root


def _slide_folder_of(relative: str) -> str | None:
    """The slide's folder in a part's path below the `nuclei` folder; None for what is no part."""
    names = relative.strip("/").split("/")
    is_part = len(names) == 3 and names[2].endswith(".parquet") and not any(one.startswith((".", "_")) for one in names)
    return names[1] if is_part else None


def _slide_of(folder: str, part: NucleiPart) -> str:
    """The slide of a folder, from its name: only a name cut short has the part opened."""
    if "~" in folder:
        return str(part.provenance["slide_id"])
    return normal_form(unquote(folder.removeprefix("slide_id=")))  # a prefix of earlier versions
