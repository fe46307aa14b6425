"""Tissue polygons as files that people edit."""

import json
from pathlib import Path

import pytest
import shapely
from shapely import Polygon

from muse_core.errors import DatasetError, TissueError
from muse_core.slide import Level, Mpp, SlideInfo
from muse_core.tissue import Tissue, read_tissue, write_tissue


def slide_info(width: int = 1000, height: int = 800) -> SlideInfo:
    levels = (Level(width, height, 1.0, 1.0, 256, 256),)
    return SlideInfo(Path("a.svs"), "openslide", "", "aperio", Mpp(0.25, 0.25, "override"), levels, None, ())


SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
SQUARE_GEOMETRY = {"type": "Polygon", "coordinates": [SQUARE]}


def feature(geometry: dict | None, **properties: object) -> dict:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


class TestGeoJson:
    def test_round_trip(self, tmp_path):
        ring = Polygon(SQUARE, [[[150, 150], [150, 200], [200, 200], [200, 150]]])
        tissue = Tissue((ring, shapely.box(500.25, 10, 600, 60)))
        write_tissue(tissue, tmp_path / "t.geojson")
        back = read_tissue(tmp_path / "t.geojson", slide_info())
        assert back.source == "t.geojson"
        assert [a.equals(b) for a, b in zip(back.polygons, tissue.polygons, strict=True)] == [True, True]

    def test_the_whole_image_and_tiles_beside_what_was_drawn_are_no_tissue(self, tmp_path, caplog):
        whole = {"type": "Polygon", "coordinates": [[[0, 0], [999, 0], [999, 799], [0, 799], [0, 0]]]}
        content = [feature(whole, objectType="root"), feature(whole, objectType="tile"), feature(SQUARE_GEOMETRY)]
        (tmp_path / "t.geojson").write_text(json.dumps(content))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(Polygon(SQUARE))
        assert "2 tiles, detections or images of QuPath's are no tissue" in caplog.text

    def test_is_what_qupath_opens_as_annotations(self, tmp_path):
        write_tissue(Tissue((shapely.box(0, 0, 10, 10),)), tmp_path / "t.geojson")
        content = json.loads((tmp_path / "t.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        (first,) = content["features"]
        assert first["properties"]["objectType"] == "annotation"
        assert first["properties"]["classification"]["name"] == "Tissue"
        assert first["geometry"]["type"] == "Polygon"

    @pytest.mark.parametrize(
        "content",
        [
            {"type": "FeatureCollection", "features": [feature(SQUARE_GEOMETRY)]},
            [feature(SQUARE_GEOMETRY)],
            feature(SQUARE_GEOMETRY),
            SQUARE_GEOMETRY,
            {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
            {"type": "GeometryCollection", "geometries": [SQUARE_GEOMETRY]},
            [feature(SQUARE_GEOMETRY), feature(SQUARE_GEOMETRY)],  # drawn twice
            [feature(SQUARE_GEOMETRY), feature({"type": "Point", "coordinates": [1, 2]}), feature(None)],
            {**SQUARE_GEOMETRY, "coordinates": [SQUARE[:-1]]},  # ring not closed
        ],
        ids=["collection", "array", "feature", "geometry", "multi", "geometries", "twice", "point", "open"],
    )
    def test_any_shape_of_file_is_read(self, tmp_path, content):
        path = tmp_path / "edited.geojson"
        path.write_text(json.dumps(content))
        (polygon,) = read_tissue(path, slide_info()).polygons
        assert polygon.area == pytest.approx(200**2)

    def test_crossing_rings_are_repaired(self, tmp_path):
        bow_tie = [[100, 100], [300, 300], [300, 100], [100, 300], [100, 100]]
        (tmp_path / "t.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [bow_tie]}))
        polygons = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert sum(polygon.area for polygon in polygons) == pytest.approx(200**2 / 2)

    def test_is_clipped_to_the_slide(self, tmp_path):
        (tmp_path / "t.geojson").write_text(json.dumps(shapely.geometry.mapping(shapely.box(900, -50, 2000, 100))))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(shapely.box(900, 0, 1000, 100))

    def test_ignored_class_is_cut_out(self, tmp_path):
        hole = shapely.geometry.mapping(shapely.box(100, 100, 200, 300))
        content = [feature(SQUARE_GEOMETRY), feature(hole, classification={"name": "Ignore*"})]
        (tmp_path / "t.geojson").write_text(json.dumps(content))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(shapely.box(200, 100, 300, 300))

    def test_a_region_of_qupaths_own_is_tissue_and_names_in_an_array_are_a_class(self, tmp_path):
        hole = shapely.geometry.mapping(shapely.box(100, 100, 200, 300))
        ignored = feature(hole, classification={"names": ["Ignore*"], "color": [0, 0, 0]})
        content = [feature(SQUARE_GEOMETRY, classification={"name": "Region*"}), ignored]
        (tmp_path / "t.geojson").write_text(json.dumps(content))
        (polygon,) = read_tissue(tmp_path / "t.geojson", slide_info()).polygons
        assert polygon.equals(shapely.box(200, 100, 300, 300))

    def test_third_coordinate_and_bom_do_no_harm(self, tmp_path):
        solid = {"type": "Polygon", "coordinates": [[[x, y, 0] for x, y in SQUARE]]}
        (tmp_path / "t.geojson").write_text(json.dumps(solid), encoding="utf-8-sig")
        assert read_tissue(tmp_path / "t.geojson", slide_info()).polygons[0].area == pytest.approx(200**2)

    def test_properties_that_are_none_do_no_harm(self, tmp_path):
        (tmp_path / "t.geojson").write_text(json.dumps({**feature(SQUARE_GEOMETRY), "properties": "abc"}))
        assert read_tissue(tmp_path / "t.geojson", slide_info()).polygons[0].area == pytest.approx(200**2)

    @pytest.mark.parametrize(
        ("text", "error", "says"),
        [
            ("{", DatasetError, "not GeoJSON"),
            ("3", DatasetError, "not GeoJSON"),
            pytest.param("[" * 100_000, DatasetError, "not GeoJSON", id="nested"),
            pytest.param("1" * 5000, DatasetError, "not GeoJSON", id="a long number"),
            ('{"type": "Circle"}', DatasetError, "not a GeoJSON geometry"),
            ('{"type": "Polygon", "coordinates": [[[1, 2]]]}', DatasetError, "not a GeoJSON geometry"),
            ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 9], [9, 9], [0, 0]]]}', DatasetError, "is no number"),
            ('{"type": "FeatureCollection", "features": []}', TissueError, "holds no polygon"),
            (json.dumps({"type": "Point", "coordinates": [1, 2]}), TissueError, "holds no polygon"),
            (json.dumps(shapely.geometry.mapping(shapely.box(2000, 0, 2100, 10))), TissueError, "lies on slide a.svs"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, tmp_path, text, error, says):
        (tmp_path / "t.geojson").write_text(text)
        with pytest.raises(error, match=says):
            read_tissue(tmp_path / "t.geojson", slide_info())

    def test_missing_file(self, tmp_path):
        with pytest.raises(DatasetError, match="No such file"):
            read_tissue(tmp_path / "none.geojson", slide_info())
