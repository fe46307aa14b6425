"""Nuclei of one slide as files that other programs open: GeoJSON detections for QuPath, and CSV. Both are streamed.

QuPath shows a slide cropped to the scanner's bounds where it has any (MRXS), and counts pixels from there; exported
positions do the same unless told otherwise.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from muse_core.cohort.uris import path_of
from muse_core.errors import ConfigError, MuseError, SlideReadError
from muse_core.machine.files import whole_file
from muse_core.nuclei_dataset import Area, NucleiDataset, bounds_origin, class_colours, rgb
from muse_core.slide import open_slide

logger = logging.getLogger(__name__)

# Of our identifiers: uuid5(NAMESPACE_URL, "https://arxiv.org/abs/2511.05170").
_NAMESPACE = UUID("2915c8e8-2d30-5807-8c9f-75988db1d955")
_COLUMNS = ("nucleus_id", "x_level0", "y_level0", "class_id", "score")


@dataclass(frozen=True)
class Selection:
    """Which nuclei are exported.

    Attributes:
        slide_id: of this slide.
        area_level0: inside this box or polygon, level-0 px; None for all.
        class_names: of these classes; empty for all.
    """

    slide_id: str
    area_level0: Area | None = None
    class_names: tuple[str, ...] = ()

    def tables(self, dataset: NucleiDataset, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The selected nuclei, some ten thousand at a time; where there is none, one table of their columns.

        Args:
            dataset: where they are.
            columns: as in `NucleiDataset.tables`; `class_id` must be among them.

        Raises:
            ConfigError: the slide has no such class.
            DatasetError: no such slide or column, or a file is damaged.
        """
        known = dataset.part(self.slide_id).class_names
        if unknown := [name for name in self.class_names if name not in known]:
            raise ConfigError(f"class {unknown[0]!r}: slide {self.slide_id} has {', '.join(known)}")
        class_ids = pa.array([known.index(name) for name in self.class_names or known], pa.int16())
        table = None
        for table in dataset.tables(self.slide_id, columns, area=self.area_level0, frame="level0"):
            yield table.filter(pc.is_in(table["class_id"], class_ids))
        if table is None:
            yield dataset.nothing(self.slide_id, columns)


def qupath_origin(dataset: NucleiDataset, slide_id: str) -> tuple[float, float]:
    """The corner of the slide from which QuPath counts, level-0 px.

    Inference notes the scanner's bounds; where it did not, the slide is asked, if its file is on this machine.

    Raises:
        DatasetError: no such slide.
    """
    provenance = dataset.part(slide_id).provenance
    if "bounds_level0" in provenance:
        return bounds_origin(provenance)
    slides = dataset.slides()
    rows = [] if slides is None else slides.select(["slide_id", "uri"]).to_pylist()
    uri = next((row["uri"] for row in rows if row["slide_id"] == slide_id), None)
    path = path_of(uri) if uri else None
    try:
        if path is None:
            raise SlideReadError(f"slide {slide_id}: its file is not on this machine")
        with open_slide(path, tolerate_missing_mpp=True) as slide:
            bounds = slide.info.bounds_level0
    except MuseError as error:
        logger.warning("positions are taken to count from the slide's corner, as its bounds are not known: %s", error)
        return 0.0, 0.0
    return (bounds.x, bounds.y) if bounds else (0.0, 0.0)


def nucleus_uuid(slide_id: str, nucleus_id: int) -> UUID:
    """The name of a nucleus in QuPath: the same in every run that finds it in the same place."""
    return uuid5(_NAMESPACE, f"{slide_id}/{nucleus_id}")


def write_qupath(
    path: Path,
    dataset: NucleiDataset,
    selection: Selection,
    *,
    origin_level0: tuple[float, float] = (0.0, 0.0),
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write nuclei as a GeoJSON FeatureCollection of QuPath detections, a line each, in bounded memory.

    Each has its class with the class's colour, and as measurements its score and probabilities.

    Args:
        path: the file; it appears when whole.
        dataset: the nuclei.
        selection: which of them.
        origin_level0: the corner that QuPath counts from, level-0 px; see `qupath_origin`.
        on_progress: told how many are written.

    Returns:
        How many nuclei were written.

    Raises:
        ConfigError: the slide has no such class.
        DatasetError: no such slide, or a file is damaged.
        OutputError: the disk is full or the folder cannot be written.
    """
    class_names = dataset.part(selection.slide_id).class_names
    columns = (*_COLUMNS, *(f"p_{name}" for name in class_names))
    form = _FeatureForm(selection.slide_id, class_names, origin_level0)
    n_written = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for table in selection.tables(dataset, columns):
            for row in zip(*(table[name].to_pylist() for name in columns), strict=True):
                file.write((",\n" if n_written else "\n") + form.feature(*row))
                n_written += 1
            if on_progress:
                on_progress(n_written)
        file.write("\n]}\n")
    return n_written


class _FeatureForm:
    """What the features of a slide have in common, as JSON text: a million of them take seconds, not minutes.

    Source: what QuPath reads, qupath-core io/QuPathTypeAdapters.java, https://github.com/qupath/qupath
    """

    def __init__(self, slide_id: str, class_names: Sequence[str], origin_level0: tuple[float, float]) -> None:
        self._slide_id = slide_id
        self._origin_x, self._origin_y = origin_level0
        # A class needs name and colour, or QuPath refuses the file; without objectType all would be annotations.
        self._styles = [
            '"objectType":"detection","classification":' + json.dumps({"name": name, "color": rgb(colour)})
            for name, colour in class_colours(class_names).items()
        ]
        self._names = [json.dumps(f"p({name})") for name in class_names]

    def feature(self, nucleus_id: int, x_level0: float, y_level0: float, class_id: int, *chances: float) -> str:
        """One nucleus; `chances` are its score and then the probability of each class."""
        measured = ",".join(
            f"{name}:{_number(chance)}" for name, chance in zip(('"Score"', *self._names), chances, strict=True)
        )
        return (
            f'{{"type":"Feature","id":"{nucleus_uuid(self._slide_id, nucleus_id)}","geometry":{{"type":"Point",'
            f'"coordinates":[{x_level0 - self._origin_x:.10g},{y_level0 - self._origin_y:.10g}]}},'
            f'"properties":{{{self._styles[class_id]},"measurements":{{{measured}}}}}}}'
        )


def _number(value: float) -> str:
    """Four decimals; what JSON has no number for is a string, which QuPath reads as that number."""
    return f"{value:.4f}" if math.isfinite(value) else f'"{value}"'.replace("nan", "NaN").replace("inf", "Infinity")


def write_csv(path: Path, tables: Iterable[pa.Table], *, on_progress: Callable[[int], None] | None = None) -> int:
    """Write nuclei as CSV with a header line, level-0 px and µm side by side, in bounded memory.

    Args:
        path: the file; it appears when whole.
        tables: nuclei, all with the same columns.
        on_progress: told how many are written.

    Returns:
        How many nuclei were written.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    n_written, writer = 0, None
    with whole_file(path) as temporary, temporary.open("wb") as file:
        for table in map(_undictionaried, tables):
            writer = writer or pyarrow.csv.CSVWriter(file, table.schema)
            writer.write_table(table)
            n_written += len(table)
            if on_progress:
                on_progress(n_written)
        if writer:
            writer.close()
    return n_written


def _undictionaried(table: pa.Table) -> pa.Table:
    """Names as plain strings: Arrow's CSV writer takes no dictionaries."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
