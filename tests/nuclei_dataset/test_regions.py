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


def square(left, top, side, **classification):
    right, bottom = left + side, top + side
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {"classification": classification} if classification else {}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def test_a_region_is_one_and_what_is_to_be_ignored_is_cut_out_of_all(tmp_path):
    features = [
        square(0, 0, 10, name="Tumor"),
        square(20, 0, 10, name="Region*"),
        square(40, 0, 10, names=["Region*", "Stroma"], color=[1, 2, 3]),
        square(8, 0, 14, name="Ignore*"),
        square(41, 1, 2, names=["Ignore*"]),
        square(9, 9, 0.5, name="Tumor"),  # on ignored ground
    ]
    found = regions(tmp_path / "r.geojson", {"type": "FeatureCollection", "features": features})
    assert [(one.classification, one.area_level0.area) for one in found] == [
        ("Tumor", 80),
        ("Region*", 80),
        ("Region*: Stroma", 96),
    ]


@pytest.mark.parametrize("kind", ["tile", "root", "detection", "cell"])
def test_what_qupath_made_is_no_region_beside_one_that_was_drawn(tmp_path, kind):
    whole, drawn = square(0, 0, 1000, name="Stroma"), square(10, 10, 5, name="Tumor")
    whole["properties"]["objectType"], drawn["properties"]["objectType"] = kind, "annotation"
    assert [one.area_level0.area for one in regions(tmp_path / "r.geojson", [whole, drawn])] == [25]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    assert len(regions(tmp_path / "r.geojson", [whole, point])) == 1, "somebody wants it: there is no other area"


def test_what_qupath_made_before_version_0_3(tmp_path):
    whole, drawn = {**square(0, 0, 1000), "id": "PathTileObject"}, {**square(10, 10, 5), "id": "PathAnnotationObject"}
    assert [one.area_level0.area for one in regions(tmp_path / "r.geojson", [whole, drawn])] == [25]
