"""Tissue polygons as GeoJSON that QuPath opens as annotations, and back, however they were edited.

Coordinates are level-0 px of the full image. QuPath counts from the scanner's bounds where a slide has any (MRXS);
there its coordinates differ by the bounds' origin.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from muse_core.errors import DatasetError, TissueError
from muse_core.machine.files import whole_file
from muse_core.slide import SlideInfo
from muse_core.slide.annotation_classes import class_of, drawn_areas, is_ignored
from muse_core.tissue.find import Tissue
from muse_core.tissue.polygons import clip_polygons, polygon_parts

logger = logging.getLogger(__name__)

_CLASSIFICATION = {"name": "Tissue", "color": [0, 170, 80]}
_DECIMALS = 2  # a hundredth of a level-0 px


def write_tissue(tissue: Tissue, path: Path) -> None:
    """Write a GeoJSON FeatureCollection, one annotation a polygon.

    Raises:
        OutputError: the file cannot be written.
    """
    features = [
        {
            "type": "Feature",
            "geometry": mapping(shapely.transform(polygon, lambda xy: xy.round(_DECIMALS))),
            "properties": {"objectType": "annotation", "classification": _CLASSIFICATION},
        }
        for polygon in tissue.polygons
    ]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def read_tissue(path: Path, info: SlideInfo) -> Tissue:
    """Read tissue polygons that a person may have edited.

    Takes a FeatureCollection, a bare array, a single Feature or geometry; polygons of any kind are repaired, joined
    where they overlap and clipped to the slide; annotations that QuPath ignores (class `Ignore*`, or another that
    ends in `*` but `Region*`) are cut out; points, lines and, beside what was drawn, what QuPath made by itself
    (tiles, the whole image, detections) are left out with a warning.

    Args:
        path: the GeoJSON file, level-0 px.
        info: the slide it belongs to.

    Raises:
        DatasetError: the file is not there or is not GeoJSON.
        TissueError: reason no_tissue: it holds no polygon on the slide.
    """
    areas = []
    for feature, geometry in _geometries(_load(path), path):
        if parts := polygon_parts(geometry):
            areas.append((feature, parts))
        else:
            logger.warning("%s: a %s is no area and is left out", path, geometry.geom_type)
    drawn = drawn_areas(areas)
    if n_made := len(areas) - len(drawn):
        logger.warning("%s: %d tiles, detections or images of QuPath's are no tissue and are left out", path, n_made)
    wanted = [part for feature, parts in drawn if not is_ignored(class_of(feature)) for part in parts]
    ignored = [part for feature, parts in drawn if is_ignored(class_of(feature)) for part in parts]
    kept = shapely.difference(shapely.union_all(wanted), shapely.union_all(ignored))
    polygons = clip_polygons([kept], info.width_level0, info.height_level0)
    if not polygons:
        where = f"none of its {len(wanted)} polygons lies on" if wanted else "it holds no polygon for"
        raise TissueError(
            f"{path}: no tissue: {where} slide {info.path.name}, {info.width_level0} x {info.height_level0} px; "
            "draw at least one, or remove the file to have tissue found"
        )
    return Tissue(tuple(sorted(polygons, key=lambda polygon: -polygon.area)), source=path.name)


def _load(path: Path) -> object:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: tissue file cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not GeoJSON: {error}; export it from QuPath as GeoJSON again") from None
    return content


def _geometries(content: object, path: Path) -> Iterator[tuple[dict[str, Any], BaseGeometry]]:
    """Each geometry with the feature (or bare geometry) that it came in."""
    if isinstance(content, list):
        for item in content:
            yield from _geometries(item, path)
    elif isinstance(content, dict) and content.get("type") == "FeatureCollection":
        yield from _geometries(content.get("features") or [], path)
    elif isinstance(content, dict) and content.get("type") == "Feature":
        if content.get("geometry") is not None:
            yield content, _shape(content["geometry"], path)
    elif isinstance(content, dict):
        yield content, _shape(content, path)
    else:
        raise DatasetError(f"{path}: not GeoJSON: found {content!r:.60} where a feature or geometry is needed")


def _shape(geometry: object, path: Path) -> BaseGeometry:
    try:
        with np.errstate(invalid="ignore"):  # what is no number is told below
            made = shape(geometry)
        if not np.isfinite(shapely.get_coordinates(made)).all():
            raise ValueError("a coordinate is no number")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
        raise DatasetError(f"{path}: not a GeoJSON geometry: {geometry!s:.60}: {error}") from None
    return made
