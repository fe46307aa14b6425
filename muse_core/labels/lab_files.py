"""Files that hold a lab's own dots: QuPath's GeoJSON, CSV and COCO. Each dot remembers the row it came from."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from muse_core.errors import DatasetError
from muse_core.machine.files import normal_form
from muse_core.slide.annotation_classes import class_of, is_ignored, is_region

_CSV_COLUMNS = ("x", "y", "class")
_CocoValue = int | float | str  # of ids and names


@dataclass(frozen=True)
class Dot:
    """One labelled nucleus.

    Attributes:
        x, y: continuous px of the image, of a slide's level 0.
        class_name: as the file has it.
        row: where it stands, for messages.
        px2: area of the outline that it is the middle of; 0 where it is a dot.
    """

    x: float
    y: float
    class_name: str
    row: str
    px2: float = 0.0


@dataclass(frozen=True)
class AnnotatedArea:
    """A polygon in which every nucleus is labelled, px of the image, and where it stands."""

    polygon: BaseGeometry
    row: str


@dataclass(frozen=True)
class DotFile:
    """Dots and areas of one image, by the image's name without ending.

    Where `ignored` lies nothing is known. QuPath counts from the scanner's bounds where a slide has any; `from_bounds`
    says that these coordinates do.
    """

    image_name: str
    dots: tuple[Dot, ...]
    areas: tuple[AnnotatedArea, ...] = ()
    ignored: tuple[AnnotatedArea, ...] = ()
    from_bounds: bool = False


def read_dot_file(path: Path) -> list[DotFile]:
    """Read a file by its ending: .csv, .geojson, or .json, which is COCO or GeoJSON by what it holds.

    Raises:
        DatasetError: it is none of these, or a row of it makes no sense.
    """
    if path.suffix.lower() == ".csv":
        return [_read_csv(path)]
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: no JSON that can be read: {error}") from None
    if isinstance(content, dict) and "annotations" in content:
        return list(_read_coco(content, path))
    return [_read_geojson(content, path)]


def _read_csv(path: Path) -> DotFile:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)  # leaves blank lines out, but counts them
            rows = [(reader.line_num, row) for row in reader]
            columns = tuple((name or "").strip().lower() for name in (rows[0][1] if rows else ()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: no CSV that can be read: {error}") from None
    if rows and not set(_CSV_COLUMNS) <= set(columns):
        raise DatasetError(f"{path}: columns {', '.join(columns)} found; a header with x, y and class is needed")
    dots = []
    for number, raw in rows:
        row = {(name or "").strip().lower(): value for name, value in raw.items()}
        where = f"{path}, row {number}"
        try:
            x, y = float(row["x"] or ""), float(row["y"] or "")
        except (ValueError, TypeError):
            raise DatasetError(f"{where}: x {row['x']!r}, y {row['y']!r}; two numbers needed") from None
        dots.append(Dot(x, y, _class_name(row["class"], where), where))
    return DotFile(normal_form(path.stem), tuple(dots))


def _read_geojson(content: Any, path: Path) -> DotFile:  # noqa: ANN401 (JSON)
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise DatasetError(f"{path}: no GeoJSON; QuPath's export of annotations or detections is needed")
    dots: list[Dot] = []
    areas: list[AnnotatedArea] = []
    ignored: list[AnnotatedArea] = []
    for number, feature in enumerate(features, 1):
        where = f"{path}, feature {number}"
        try:
            if feature["geometry"] is None:
                continue  # as GeoJSON has it for what lies nowhere
            geometry, name = shape(feature["geometry"]), class_of(feature)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError, shapely.errors.ShapelyError):
            raise DatasetError(f"{where}: no geometry; a point or polygon needed") from None
        if is_region(name) or is_ignored(name):
            (areas if is_region(name) else ignored).append(AnnotatedArea(_polygon(geometry, where), where))
            continue
        for point in _points(geometry, where):
            px2 = float(geometry.area)
            dots.append(Dot(float(point.x), float(point.y), _class_name(name, where), where, px2))
    name = normal_form(path.stem.removesuffix(".geo"))
    return DotFile(name, tuple(dots), tuple(areas), tuple(ignored), from_bounds=True)


def _polygon(geometry: BaseGeometry, where: str) -> BaseGeometry:
    if geometry.geom_type in ("Polygon", "MultiPolygon") and not geometry.is_valid:
        # What crosses itself may fall apart into areas and lines.
        parts = shapely.get_parts(shapely.make_valid(geometry))
        geometry = shapely.union_all([part for part in parts if part.area > 0])
    if geometry.geom_type not in ("Polygon", "MultiPolygon") or geometry.area == 0:
        raise DatasetError(f"{where}: a region that is a {geometry.geom_type}; a polygon with an area needed")
    return geometry


def _points(geometry: BaseGeometry, where: str) -> list[shapely.Point]:
    """A point each: of points themselves, of a nucleus' outline its centroid."""
    if geometry.is_empty:
        raise DatasetError(f"{where}: an empty {geometry.geom_type}; a point or polygon needed")
    if geometry.geom_type == "MultiPoint":
        return list(geometry.geoms)
    if geometry.geom_type not in ("Point", "Polygon", "MultiPolygon"):
        raise DatasetError(f"{where}: a nucleus that is a {geometry.geom_type}; a point or polygon needed")
    return [geometry if geometry.geom_type == "Point" else geometry.centroid]


def _read_coco(content: dict[str, Any], path: Path) -> Iterator[DotFile]:
    """Key points' first, else the middle of the box: COCO measures both from the corner of the top-left pixel."""
    files = _coco_names(content, "images", "file_name", path)
    names = {key: normal_form(Path(name).stem) for key, name in files.items()}
    classes = _coco_names(content, "categories", "name", path)
    dots: dict[Any, list[Dot]] = {image_id: [] for image_id in names}
    for number, one in enumerate(_coco_list(content, "annotations", path), 1):
        where = f"{path}, annotation {number}"
        if not isinstance(one, dict):
            raise DatasetError(f"{where}: a {type(one).__name__}; image_id, category_id and bbox or keypoints needed")
        for key, known in (("image_id", names), ("category_id", classes)):
            if not isinstance(one.get(key), _CocoValue) or one[key] not in known:
                raise DatasetError(f"{where}: {key} {one.get(key)!r:.60} is none of the file's")
        x, y = _coco_point(one, where)
        dots[one["image_id"]].append(Dot(x, y, classes[one["category_id"]], where))
    for image_id, name in names.items():
        yield DotFile(name, tuple(dots[image_id]))


def _coco_list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    if key not in content:
        raise DatasetError(f"{path}: COCO without {key!r}; images, categories and annotations needed")
    rows = content[key]
    if not isinstance(rows, list):
        raise DatasetError(f"{path}: COCO's {key!r} is {rows!r:.40}; a list needed")
    return rows


def _coco_names(content: dict[str, Any], key: str, name: str, path: Path) -> dict[_CocoValue, str]:
    """Names of images or categories by their id."""
    rows = _coco_list(content, key, path)
    for number, one in enumerate(rows, 1):
        if not isinstance(one, dict) or not all(isinstance(one.get(part), _CocoValue) for part in ("id", name)):
            raise DatasetError(f"{path}, {key} {number}: {one!r:.60}; an object with id and {name} needed")
    return {one["id"]: str(one[name]) for one in rows}


def _coco_point(annotation: dict[str, Any], where: str) -> tuple[float, float]:
    numbers = annotation.get("keypoints") or annotation.get("bbox")
    try:
        if not isinstance(numbers, list):
            raise TypeError
        if annotation.get("keypoints"):
            return float(numbers[0]), float(numbers[1])
        x, y, width, height = (float(number) for number in numbers)
    except (TypeError, ValueError, IndexError, OverflowError):
        raise DatasetError(f"{where}: neither keypoints (x, y, ...) nor bbox (x, y, width, height)") from None
    return x + width / 2, y + height / 2


def _class_name(name: str | None, where: str) -> str:
    if name is None or not name.strip():
        raise DatasetError(f"{where}: no class; each nucleus needs one, and regions the class Region*")
    return name.strip()
