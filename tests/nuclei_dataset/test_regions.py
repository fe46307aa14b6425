"""Regions from GeoJSON, legal and not."""

import json

import pytest

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import read_regions

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}


def regions(path, content):
    path.write_text(json.dumps(content))
    return list(read_regions(path, {}))


def test_what_lies_nowhere_and_properties_that_are_none_do_no_harm(tmp_path):
    features = [
        {"type": "Feature", "geometry": None, "properties": {"name": "nowhere"}},
        {"type": "Feature", "geometry": SQUARE, "properties": "abc"},
        {"type": "Feature", "geometry": SQUARE, "properties": None},
        {"type": "Feature", "geometry": SQUARE, "properties": {"name": "A", "classification": {"name": "Tumor"}}},
    ]
    found = regions(tmp_path / "r.geojson", {"type": "FeatureCollection", "features": features})
    assert [(one.name, one.classification) for one in found] == [(None, None), (None, None), ("A", "Tumor")]


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 9], [9, 9], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [float("inf"), 9], [9, 9], [0, 0]]]},
        {"type": "Circle"},
        "abc",
    ],
)
def test_what_is_no_geometry_is_one_line(tmp_path, geometry):
    with pytest.raises(DatasetError, match="not a GeoJSON geometry"):
        regions(tmp_path / "r.geojson", {"type": "Feature", "geometry": geometry, "properties": {}})
