"""What QuPath says of an object: an area that somebody drew or not; and by its class, one looked at or one cut out.

QuPath ships `Region*` for ground that is annotated whole, and `Ignore*`; it calls any class whose name ends in `*`
ignored, since objects of that class are no cells. A region of that kind still is one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Area = TypeVar("Area")  # however its reader holds it

_REGION_NAMES = frozenset({"region", "region*", "roi"})
_BETWEEN = ": "  # of the names of a class derived from another, `Tumor: Positive`
# What QuPath makes by itself: pieces that it computes in, the whole image, and what it found. Before version 0.3 the
# kind stood in `id`.
_MADE = frozenset({"tile", "root", "detection", "cell"})
_MADE_IDS = frozenset({"PathTileObject", "PathRootObject", "PathDetectionObject", "PathCellObject"})


def drawn_areas(areas: Sequence[tuple[Mapping[str, Any], Area]]) -> list[tuple[Mapping[str, Any], Area]]:
    """GeoJSON features with their areas, without QuPath's own work: tiles, the whole image, nuclei that it found.

    A file of nothing else may be what somebody wants: then all of them.
    """
    return [(feature, area) for feature, area in areas if not _is_made(feature)] or list(areas)


def _is_made(feature: Mapping[str, Any]) -> bool:
    properties = feature.get("properties")
    kind = properties.get("objectType") if isinstance(properties, Mapping) else None
    return kind in _MADE if isinstance(kind, str) else feature.get("id") in _MADE_IDS


def class_of(feature: Mapping[str, Any]) -> str | None:
    """The class of a GeoJSON feature: a plain string, or an object with a name or names; None where it has none."""
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, Mapping) else None
    if isinstance(found, Mapping):
        names = found.get("names")
        found = found.get("name") or (_BETWEEN.join(map(str, names)) if isinstance(names, list) else None)
    return str(found).strip() or None if isinstance(found, (str, int, float)) else None


def is_region(class_name: str | None) -> bool:
    """Whether a class says that ground is annotated whole: `Region*`, `ROI`, or one derived from them."""
    return class_name is not None and class_name.split(_BETWEEN)[0].strip().lower() in _REGION_NAMES


def is_ignored(class_name: str | None) -> bool:
    """Whether a class says that ground is to be cut out: `Ignore*` and any other that ends in `*`, but no region."""
    if class_name is None or is_region(class_name):
        return False
    return any(name.strip().endswith("*") for name in class_name.split(_BETWEEN))
