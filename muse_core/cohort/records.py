"""What became of each slide: one JSON record a finished slide, and the slides table and summary made from them."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from muse_core.cohort.manifest.ids import scene_key
from muse_core.machine.files import whole_file
from muse_core.machine.installed import installed_version
from muse_core.schemas import SLIDES, check_table
from muse_core.slide import Slide

RECORDED_PACKAGES = (
    "muse-nuclei",
    "openslide-bin",
    "cucim-cu13",
    "tifffile",
    "imagecodecs",
    "opencv-python-headless",
    "numpy",
    "pillow",
    "torch",
    "timm",
)


@dataclass(frozen=True)
class SlideRecord:
    """One slide's row of the slides table, and what it was made from.

    Attributes:
        row: values of the slides table's columns; a column left out is null.
        inputs_hash: changes when the slide or a setting that matters does; "" for a slide that is to be built again.
        parts: its parts of the dataset, below the output folder.
        reused: whether an earlier run had finished it.
    """

    row: dict[str, Any]
    inputs_hash: str = ""
    parts: tuple[str, ...] = ()
    reused: bool = False

    @property
    def slide_id(self) -> str:
        """The slide's name in the manifest."""
        return str(self.row["slide_id"])

    @property
    def status(self) -> str:
        """One of done, failed, skipped."""
        return str(self.row["status"])


def slide_facts(slide: Slide) -> dict[str, Any]:
    """The columns of the slides table that an open slide tells."""
    info = slide.info
    return {
        "vendor": info.vendor,
        "reader": info.reader,
        "reader_check": info.reader_check,
        "mpp_x": info.mpp.x,
        "mpp_y": info.mpp.y,
        "mpp_source": info.mpp.source,
        "width_level0": info.width_level0,
        "height_level0": info.height_level0,
        "level_count": len(info.levels),
        "judgement": "; ".join(info.judgement),
        "scene": info.scene,
    }


def package_versions() -> dict[str, str]:
    """The installed versions of what reads slides and makes rows."""
    found = {package: installed_version(package) for package in RECORDED_PACKAGES}
    return {package: version for package, version in found.items() if version}  # cuCIM has no build for some platforms


def keep_record(record: SlideRecord, path: Path) -> None:
    """Write a record; from then on the slide is finished.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with whole_file(path) as file:
        file.write_text(
            json.dumps(
                {"row": record.row, "inputs_hash": record.inputs_hash, "parts": record.parts, "at": time.time()}
            ),
            encoding="utf-8",
        )


def read_record(path: Path) -> SlideRecord | None:
    """The record at a path, or None where there is none or it is not one (then the slide is built again)."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return SlideRecord(dict(values["row"]), str(values["inputs_hash"]), tuple(values["parts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recorded_at(path: Path) -> float:
    """When a record was made, seconds since 1970; 0 where there is none."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8")).get("at") or path.stat().st_mtime)
    except (OSError, ValueError, AttributeError, TypeError):
        return 0.0


def read_records(folder: Path) -> list[SlideRecord]:
    """Every record of a folder, by file name."""
    records = (read_record(path) for path in sorted(folder.glob("*.json")))
    return [record for record in records if record is not None]


def known_ids(folder: Path) -> dict[str, str]:
    """The slide ids of a folder's records by their files' paths or URIs, for files to keep them.

    Of a scene that was asked for it is by `scene_key`: a file may have several, and none is the file's.
    """
    records = read_records(folder)
    return {scene_key(str(one.row["uri"]), one.row.get("scene")): one.slide_id for one in records if one.row.get("uri")}


def write_slides_table(path: Path, records: Iterable[SlideRecord], schema: pa.Schema = SLIDES) -> None:
    """Write the slides table, ordered by slide id; a column that a record lacks is null, one too many is left out.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    rows = sorted((record.row for record in records), key=lambda row: str(row["slide_id"]))
    complete = [{name: row.get(name) for name in schema.names} for row in rows]
    table = check_table(pa.Table.from_pylist(complete, schema=schema), schema, str(path))
    with whole_file(path) as file:
        pq.write_table(table, file)
