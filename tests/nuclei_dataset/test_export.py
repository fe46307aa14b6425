"""Exports: the GeoJSON as QuPath's own reader takes it, and the CSV."""

import csv
import json
import tracemalloc
from uuid import UUID

import geopandas
import numpy as np
import pytest
import shapely

from muse_core.errors import ConfigError
from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset, class_colours, nuclei_table, part_path, write_nuclei
from muse_core.nuclei_dataset.curve import nucleus_ids
from muse_core.nuclei_dataset.export import Selection, nucleus_uuid, qupath_origin, write_csv, write_qupath
from tests.data.make_nuclei import CLASSES, header, pieces, points, write_slide, write_slides_table

QUPATH_TYPES = {"annotation", "detection", "cell", "tile", "tmaCore"}
GEOMETRIES = {"Point", "MultiPoint", "Polygon", "MultiPolygon", "LineString"}


def read_as_qupath(path):
    """What QuPath makes of a file, by the rules of its reader (QuPathTypeAdapters.java); raises where it would."""
    content = json.loads(path.read_text(encoding="utf-8"))
    features = content["features"] if isinstance(content, dict) else content
    found = []
    for feature in features:
        assert feature["geometry"]["type"] in GEOMETRIES
        properties = feature["properties"]
        kind = properties.get("objectType", properties.get("object_type", properties.get("type", "annotation")))
        assert kind in QUPATH_TYPES
        classification = properties["classification"]
        if isinstance(classification, dict):  # JsonParseException where either is missing
            assert isinstance(classification["name"], str)
            assert [type(value) for value in classification["color"]] == [int, int, int]
            assert all(0 <= value <= 255 for value in classification["color"])
        measurements = properties["measurements"]
        assert isinstance(measurements, dict)  # a list is the legacy form
        assert all(
            isinstance(value, float) or value in ("NaN", "Infinity", "-Infinity") for value in measurements.values()
        )
        try:
            name = UUID(feature["id"])
        except ValueError:
            name = None  # dropped: a new one would be drawn
        found.append((name, kind, feature["geometry"]["coordinates"], classification["name"], measurements))
    return found


@pytest.fixture
def dataset(tmp_path):
    write_slide(tmp_path, 3000)
    return NucleiDataset(tmp_path)


def test_qupath_reads_every_nucleus_as_a_detection(dataset, tmp_path):
    path = tmp_path / "S1.geojson"
    assert write_qupath(path, dataset, Selection("S1")) == 3000
    found = read_as_qupath(path)
    assert {kind for _, kind, *_ in found} == {"detection"}
    rows = dataset.within("S1", Box(0, 0, 1e5, 1e5)).to_pylist()
    for (name, _, xy, class_name, measurements), row in zip(found, rows, strict=True):
        assert name == nucleus_uuid("S1", row["nucleus_id"])
        assert xy == [row["x_level0"], row["y_level0"]]
        assert class_name == row["class_name"]
        assert measurements["Score"] == pytest.approx(row["score"], abs=5e-5)
        assert measurements[f"p({class_name})"] == pytest.approx(row[f"p_{class_name}"], abs=5e-5)
        assert len(measurements) == 4
    assert len({name for name, *_ in found}) == 3000


def test_other_readers_open_it_too(dataset, tmp_path):
    path = tmp_path / "S1.geojson"
    write_qupath(path, dataset, Selection("S1"))
    frame = geopandas.read_file(path)
    assert len(frame) == 3000
    assert set(frame.geom_type) == {"Point"}
    assert len(path.read_text().splitlines()) == 3002  # a feature a line


def test_names_are_the_same_in_every_run_that_finds_the_nucleus(tmp_path):
    about, whole = header(), points(500)
    some = pieces(whole, 300)[0]
    for folder, kept in (("a", whole), ("b", some)):
        write_nuclei(part_path(tmp_path / folder, about), [nuclei_table(about, kept)], about)
        write_qupath(tmp_path / f"{folder}.geojson", NucleiDataset(tmp_path / folder), Selection("S1"))
    names = [{name for name, *_ in read_as_qupath(tmp_path / f"{folder}.geojson")} for folder in "ab"]
    assert names[1] < names[0]
    assert nucleus_uuid("S1", int(nucleus_ids(some.xy_level0)[0])) in names[0]
    assert nucleus_uuid("S1", 1) != nucleus_uuid("S2", 1)


def test_positions_count_from_the_scanners_bounds(dataset, tmp_path):
    write_qupath(tmp_path / "whole.geojson", dataset, Selection("S1"))
    write_qupath(tmp_path / "cropped.geojson", dataset, Selection("S1"), origin_level0=(100.5, 200.25))
    whole, cropped = (
        np.array([xy for _, _, xy, *_ in read_as_qupath(tmp_path / f"{n}.geojson")]) for n in ("whole", "cropped")
    )
    np.testing.assert_allclose(whole - cropped, [[100.5, 200.25]] * 3000, atol=1e-6)


def test_the_origin_is_the_bounds_that_inference_noted(tmp_path):
    write_slide(tmp_path, 10, provenance={"bounds_level0": [100.0, 50.0, 7000.0, 7000.0]})
    write_slide(tmp_path, 10, "S2", provenance={"bounds_level0": None})
    dataset = NucleiDataset(tmp_path)
    assert qupath_origin(dataset, "S1") == (100.0, 50.0)
    assert qupath_origin(dataset, "S2") == (0.0, 0.0)


def test_the_slide_is_asked_for_bounds_that_nobody_noted(dataset, tmp_path, drawn, caplog):
    write_slides_table(tmp_path, {"S1": 1.0}, uri=str(drawn[0]))
    assert qupath_origin(dataset, "S1") == (0.0, 0.0)
    assert caplog.text == ""
    write_slides_table(tmp_path, {"S1": 1.0}, uri="s3://bucket/gone.mrxs")
    assert qupath_origin(dataset, "S1") == (0.0, 0.0)
    assert "bounds are not known: slide S1: its file is not on this machine" in caplog.text


def test_a_selection_of_area_and_class(dataset, tmp_path):
    area = shapely.Point(4000, 4000).buffer(1500)
    path = tmp_path / "some.geojson"
    count = write_qupath(path, dataset, Selection("S1", area, ("stromal",)))
    found = read_as_qupath(path)
    assert 20 < count == len(found) < 300
    assert {class_name for _, _, _, class_name, _ in found} == {"stromal"}
    assert all(area.contains(shapely.Point(xy)) for _, _, xy, *_ in found)
    with pytest.raises(ConfigError, match="class 'plasma': slide S1 has lymphocyte"):
        write_qupath(path, dataset, Selection("S1", None, ("plasma",)))


def test_an_empty_slide_is_a_valid_file(tmp_path):
    write_nuclei(part_path(tmp_path, header()), [], header())
    assert write_qupath(tmp_path / "S1.geojson", NucleiDataset(tmp_path), Selection("S1")) == 0
    assert read_as_qupath(tmp_path / "S1.geojson") == []


def test_names_with_quotes_and_numbers_that_are_none(tmp_path):
    about = header('S"1\\', class_names=('a "b"\n', "</script>", "ü"))
    whole = points(3)
    whole.probabilities[0, 0] = np.nan
    whole.score[1] = np.inf
    write_nuclei(part_path(tmp_path, about), [nuclei_table(about, whole)], about)
    write_qupath(tmp_path / "a.geojson", NucleiDataset(tmp_path), Selection('S"1\\'))
    found = read_as_qupath(tmp_path / "a.geojson")
    assert {key for *_, measurements in found for key in measurements} == {
        "Score",
        'p(a "b"\n)',
        "p(</script>)",
        "p(ü)",
    }
    values = [value for *_, measurements in found for value in measurements.values()]
    assert (values.count("NaN"), values.count("Infinity")) == (1, 1)


def test_writing_is_bounded_in_memory(tmp_path):
    write_slide(tmp_path, 150_000)
    dataset = NucleiDataset(tmp_path)
    peaks = []
    for area in (Box(0, 0, 4000, 8000), None):  # half of it, and all
        tracemalloc.start()
        write_csv(tmp_path / "a.csv", Selection("S1", area).tables(dataset))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 1_000_000


def test_the_csv_holds_every_row(dataset, tmp_path):
    path = tmp_path / "S1.csv"
    assert write_csv(path, Selection("S1").tables(dataset)) == 3000
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = dataset.within("S1", Box(0, 0, 1e5, 1e5))
    assert list(rows[0]) == table.column_names
    assert [int(row["nucleus_id"]) for row in rows] == table["nucleus_id"].to_pylist()
    assert [row["class_name"] for row in rows] == table["class_name"].to_pylist()
    np.testing.assert_allclose([float(row["x_um"]) for row in rows], table["x_um"].to_numpy())


def test_colours_differ_and_stay_with_their_class():
    colours = class_colours([f"class {i}" for i in range(20)])
    assert len(set(colours.values())) >= 19  # black stays black
    assert class_colours(CLASSES)["stromal"] == class_colours(("a", "b", "stromal", "d"))["stromal"] == "#009E73"


@pytest.mark.parametrize(("count", "area"), [(0, None), (30, Box(-500, -500, 10, 10))])
def test_a_csv_of_no_nuclei_has_its_header(tmp_path, count, area):
    write_slide(tmp_path, count)
    dataset = NucleiDataset(tmp_path)
    assert write_csv(tmp_path / "none.csv", Selection("S1", area).tables(dataset)) == 0
    with (tmp_path / "none.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [list(dataset.nothing("S1").column_names)]
    assert write_qupath(tmp_path / "none.geojson", dataset, Selection("S1", area)) == 0
    assert read_as_qupath(tmp_path / "none.geojson") == []
