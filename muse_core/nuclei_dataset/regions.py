"""Regions that somebody drew on a slide, from GeoJSON such as QuPath exports."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from muse_core.errors import DatasetError
from muse_core.slide.annotation_classes import class_of, drawn_areas, is_ignored


@dataclass(frozen=True)
class Annotation:
    """An area of a slide.

    Attributes:
        area_level0: a valid polygon or multipolygon, level-0 px of the full image.
        name: its name, None where it has none.
        classification: the name of its class in QuPath, None where it has none.
    """

    area_level0: BaseGeometry
    name: str | None
    classification: str | None


def bounds_origin(provenance: Mapping[str, Any]) -> tuple[float, float]:
    """The corner of the scanned area that QuPath crops a slide to, level-0 px; (0, 0) where the slide names none.

    Args:
        provenance: of the slide's part; `bounds_level0` is [left, top, width, height] or null.
    """
    bounds = provenance.get("bounds_level0")
    return (float(bounds[0]), float(bounds[1])) if bounds else (0.0, 0.0)


def read_regions(
    path: Path, provenance: Mapping[str, Any], *, origin_level0: tuple[float, float] | None = None
) -> Iterator[Annotation]:
    """Each area of a file less those to be ignored; points, lines and features without a geometry are passed over.

    Beside areas that were drawn, so are those that QuPath made by itself: tiles, the whole image, detections.

    Areas of the class `Ignore*`, or of another that ends in `*` but `Region*`, are cut out of the others.

    Args:
        path: GeoJSON in px of the image as QuPath shows it.
        provenance: of the slide's part.
        origin_level0: where that image's corner lies in level-0 px; None for `bounds_origin`.

    Raises:
        DatasetError: the file cannot be read or is not GeoJSON.
    """
    offset = bounds_origin(provenance) if origin_level0 is None else origin_level0
    found = [(feature, _area(feature, path)) for feature in _features(path)]
    drawn = drawn_areas([(feature, area) for feature, area in found if area is not None and area.area > 0])
    areas = [(class_of(feature), feature, area) for feature, area in drawn]
    ignored = shapely.union_all([area for name, _, area in areas if is_ignored(name)])
    for name, feature, area in areas:
        kept = area if is_ignored(name) or ignored.is_empty else shapely.difference(area, ignored)
        if not is_ignored(name) and kept.area > 0:
            properties = feature.get("properties")
            title = properties.get("name") if isinstance(properties, dict) else None
            yield Annotation(shapely.transform(kept, lambda xy: xy + offset), _text(title), name)


def _features(path: Path) -> list[dict[str, Any]]:
    """Features, or bare geometries, of a collection, a list or a file of one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: regions cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not GeoJSON: {error}; export it from QuPath as GeoJSON again") from None
    features = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise DatasetError(f"{path}: not GeoJSON: {content!r:.60}; a feature collection is needed")
    return features


def _area(feature: dict[str, Any], path: Path) -> BaseGeometry | None:
    if feature.get("type") == "Feature" and feature.get("geometry") is None:
        return None  # as GeoJSON has it for what lies nowhere
    try:
        with np.errstate(invalid="ignore"):  # what is no number is told below
            geometry = shape(feature.get("geometry") or feature)
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise ValueError("a coordinate is no number")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
        raise DatasetError(f"{path}: not a GeoJSON geometry: {feature!s:.60}: {error}") from None
    return shapely.make_valid(geometry)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
