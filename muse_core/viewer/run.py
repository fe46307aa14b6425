"""What is looked at: a run's nuclei, what became of its slides, and where their files are.

A run may still be being written: what is there is looked at anew, some seconds apart. Nuclei that were found again
with a model taught in the lab folder take the place of the run's own.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from muse_core.cohort.manifest import read_manifest
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import read_records
from muse_core.cohort.uris import path_of, scheme_of
from muse_core.errors import DatasetError, MuseError
from muse_core.machine.files import safe_name
from muse_core.nuclei_dataset import NucleiDataset, NucleiPart, class_colours, read_regions
from muse_core.viewer.digest import Cut, Digest, count_cut, part_identity, read_digest

_LOOK_AGAIN_S = 2.0  # least time between two looks at a folder
_LOOK_SHARE = 0.05  # most of the time that is spent looking: a large cohort's folder takes a while
_MOST_DIGESTS = 8  # held; a large one takes 12 MB
_SPARE = 8
_SIMPLER_PX = 4.0  # level-0 px; outlines are drawn to this


@dataclass(frozen=True)
class SlideShown:
    """One slide for the page.

    Attributes:
        slide_id: its name.
        dataset: where its nuclei are; None where it has none.
        row: of the slides table; columns may be missing.
        path: its file; None where it is not at hand.
        no_pixels: why it is not, for people; empty where it is.
    """

    slide_id: str
    dataset: NucleiDataset | None
    row: Mapping[str, Any]
    path: Path | None
    no_pixels: str

    @property
    def scene(self) -> int | None:
        """Which of several pictures in its file; None for the largest."""
        scene = self.row.get("scene")
        return None if scene is None else int(scene)

    @property
    def size_level0(self) -> tuple[float, float]:
        """Width and height, or where the nuclei end if the table does not say."""
        width, height = self.row.get("width_level0"), self.row.get("height_level0")
        if width and height:
            return float(width), float(height)
        if self.dataset is None:
            return 1.0, 1.0
        bounds = np.concatenate([part.bounds_level0 for part in need_nuclei(self).parts(self.slide_id)])
        right, bottom = bounds[:, 2:].max(axis=0).tolist() if len(bounds) else (1.0, 1.0)
        return float(np.ceil(right + 1)), float(np.ceil(bottom + 1))

    @property
    def version(self) -> str:
        """Changes when its nuclei do."""
        return "-".join(map(str, part_identity(self.dataset, self.slide_id))) if self.dataset is not None else ""


class ViewedRun:
    """A run and the lab folder beside it. Safe to use from several threads."""

    def __init__(
        self, source: Path | str, *, lab: Path, slides: Path | None = None, checkpoint: Path | None = None
    ) -> None:
        """Open it.

        Args:
            source: the folder that inference wrote or writes, or its `nuclei` folder; a path or a URL.
            lab: the folder of labels; its `inferred` holds what was found again with a taught model.
            slides: a folder of slides, or a manifest, where the recorded files are gone.
            checkpoint: the model that found the nuclei; None for what ships.

        Raises:
            DatasetError: no nuclei, and no run that is being written.
            ManifestError: `slides` names none.
        """
        self.source, self.lab, self.slides, self.checkpoint = source, lab, slides, checkpoint
        self._out = _local_out(source)
        self._given = _files_of(slides) if slides is not None else {}
        self._lock, self._digesting = threading.Lock(), threading.Lock()
        self._look_next = 0.0
        self._datasets: tuple[NucleiDataset, ...] = ()
        self._rows: dict[str, dict[str, Any]] = {}
        self._digests: OrderedDict[tuple[str, str], Digest] = OrderedDict()
        self._look(must_be_there=True)

    @property
    def slide_ids(self) -> list[str]:
        """Every slide that has nuclei or a row, sorted."""
        self._look()
        return sorted({*self._rows, *(slide_id for dataset in self._datasets for slide_id in dataset.slide_ids)})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all slides."""
        self._look()
        parts = [dataset.part(slide_id) for dataset in self._datasets for slide_id in dataset.slide_ids]
        return tuple(dict.fromkeys(name for part in parts if not _problem(part) for name in part.class_names))

    @property
    def colours(self) -> dict[str, str]:
        """`#rrggbb` of each class, as in the report."""
        return class_colours(self.class_names)

    @property
    def spare_colours(self) -> list[str]:
        """Of classes that people name and no model knows."""
        names = [*self.class_names, *map(str, range(_SPARE))]
        return list(class_colours(names).values())[-_SPARE:]

    def slide(self, slide_id: str) -> SlideShown:
        """One slide.

        Raises:
            DatasetError: there is none of that name (reason not_found).
        """
        if slide_id not in self.slide_ids:
            raise DatasetError(f"slide {slide_id!r}: not in this run", reason="not_found")
        row = self._rows.get(slide_id, {})
        found = [(one, _problem(one.part(slide_id))) for one in self._datasets if slide_id in one.slide_ids]
        dataset = next((one for one, problem in found if problem is None), None)
        if found and (problem := found[0][1]):
            # One bad file must hide neither other slides nor this one's nuclei of an earlier time.
            row = {**row, "reason": problem.reason, "message": str(problem)}
        path, why = self._file_of(slide_id, row)
        return SlideShown(slide_id, dataset, row, path, why)

    def digest(self, shown: SlideShown) -> Digest:
        """A slide from afar.

        Raises:
            DatasetError: it has no nuclei, or a file is damaged.
        """
        dataset = need_nuclei(shown)
        key = (shown.slide_id, shown.version)
        with self._lock:
            if key in self._digests:
                self._digests.move_to_end(key)
                return self._digests[key]
        with self._digesting:  # one at a time: each takes a core and some memory
            digest = read_digest(dataset, shown.slide_id, shown.size_level0)
        with self._lock:
            self._digests[key] = digest
            while len(self._digests) > _MOST_DIGESTS:
                self._digests.popitem(last=False)
        return digest

    def levels(self, shown: SlideShown, cut: Cut) -> tuple[np.ndarray[Any, np.dtype[np.uint32]], ...]:
        """The pyramid of counts of what a cut leaves; errors as for `digest`."""
        if cut == Cut():
            return self.digest(shown).levels
        return count_cut(need_nuclei(shown), shown.slide_id, shown.size_level0, cut)

    def tissue(self, slide_id: str) -> list[list[list[list[float]]]]:
        """The tissue's polygons as inference had them: each a list of rings of level-0 (x, y); none where not known."""
        path = RunPaths(self._out).tissue(slide_id) if self._out is not None else None
        if path is None or not path.exists():
            return []
        areas = [region.area_level0 for region in read_regions(path, {}, origin_level0=(0.0, 0.0))]
        polygons = [part for area in areas for part in shapely.get_parts(area.simplify(_SIMPLER_PX))]
        return [_rings(polygon) for polygon in polygons if polygon.geom_type == "Polygon"]

    def overview(self, slide_id: str) -> Path | None:
        """The picture that was kept of a slide; None where there is none."""
        path = self._out / "pictures" / safe_name(slide_id) / "overview.jpg" if self._out is not None else None
        return path if path is not None and path.exists() else None

    @property
    def is_being_written(self) -> bool:
        """Whether a run has begun here and not written its table of slides since."""
        if self._out is None:
            return False
        paths = RunPaths(self._out)
        written = paths.slides_table.stat().st_mtime if paths.slides_table.exists() else 0.0
        newest = max((path.stat().st_mtime for path in paths.records.glob("*.json")), default=0.0)
        return newest > written or (not written and paths.records.parent.joinpath(".staging").exists())

    def _look(self, *, must_be_there: bool = False) -> None:
        """See what is there now, unless that was done a moment ago."""
        with self._lock:
            begun = time.monotonic()
            if begun < self._look_next and not must_be_there:
                return
            found = []
            for source in (self.lab / "inferred", self.source):
                try:
                    found.append(NucleiDataset(source))
                except DatasetError:
                    if must_be_there and source is self.source and not self._rows_now() and not self.is_being_written:
                        raise
            self._datasets, self._rows = tuple(found), self._rows_now(found)
            now = time.monotonic()
            self._look_next = now + max(_LOOK_AGAIN_S, (now - begun) / _LOOK_SHARE)

    def _rows_now(self, datasets: list[NucleiDataset] | None = None) -> dict[str, dict[str, Any]]:
        """Rows of the slides tables, and of slides finished since."""
        rows: dict[str, dict[str, Any]] = {}
        for dataset in datasets or []:
            table = dataset.slides()
            rows = {**{str(row["slide_id"]): row for row in (table.to_pylist() if table is not None else [])}, **rows}
        if self._out is not None:
            finished = read_records(RunPaths(self._out).records)
            rows = {**{record.slide_id: record.row for record in finished}, **rows}
        return rows

    def _file_of(self, slide_id: str, row: Mapping[str, Any]) -> tuple[Path | None, str]:
        if slide_id in self._given:
            return self._given[slide_id], ""
        uri = row.get("uri")
        if not uri:
            return None, "The slides table does not name its file; give --slides with the folder it is in."
        path = path_of(str(uri))
        kept = RunPaths(self._out).downloads if self._out is not None else None
        if path is None and kept is not None:
            path = next((file for file in kept.glob(f"{safe_name(slide_id)}*") if file.is_file()), None)
        if path is None:
            return None, f"Its file is not on this machine ({scheme_of(str(uri))}); give --slides with a copy of it."
        if not path.exists():
            return None, f"{path} is gone; give --slides with the folder it was moved to."
        return path, ""


def need_nuclei(shown: SlideShown) -> NucleiDataset:
    """Where a slide's nuclei are.

    Raises:
        DatasetError: it has none (reason not_found).
    """
    if shown.dataset is None:
        raise no_nuclei(shown)
    return shown.dataset


def no_nuclei(shown: SlideShown) -> DatasetError:
    """Why a slide has none."""
    why = shown.row.get("message") or shown.row.get("reason") or "it is not finished"
    return DatasetError(f"slide {shown.slide_id}: no nuclei: {why}", reason="not_found")


def _problem(part: NucleiPart) -> DatasetError | None:
    """Why a slide's nuclei cannot be read: a file that somebody else made, or that is not whole."""
    try:
        part.provenance  # noqa: B018 (the footer is read)
    except DatasetError as error:
        return error
    return None


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    return [np.round(ring.coords, 1).tolist() for ring in (polygon.exterior, *polygon.interiors)]


def _local_out(source: Path | str) -> Path | None:
    """The run's folder, where it is one of this machine."""
    if scheme_of(str(source)) not in ("", "file"):
        return None
    path = path_of(str(source)) or Path(source)
    return path.parent if path.name == "nuclei" else path


def _files_of(slides: Path) -> dict[str, Path]:
    """Files by slide_id of a folder, a glob, a file or a manifest."""
    rows = read_manifest(slides).rows
    files = {row.slide_id: path_of(row.uri) for row in rows}
    return {slide_id: path for slide_id, path in files.items() if path is not None and path.exists()}


def as_error(error: MuseError) -> dict[str, str]:
    """An error as the page shows it."""
    return {"error": str(error), "reason": error.reason}
