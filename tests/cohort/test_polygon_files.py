"""Files of polygons found under the names that people give them."""

import logging
from pathlib import Path

import pytest

from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.polygon_files import PolygonFiles
from muse_core.errors import ConfigError


def row(slide_id, uri="/slides/x.svs"):
    return ManifestRow(1, slide_id, slide_id, "LAB", uri, None, None, None)


def files(folder: Path, *names: str) -> PolygonFiles:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return PolygonFiles(folder, "--tissue")


@pytest.mark.parametrize(
    ("name", "slide_id", "uri"),
    [
        ("S1.geojson", "S1", "/slides/one.svs"),
        ("S1.GeoJSON", "S1", "/slides/one.svs"),
        ("S1.json", "S1", "/slides/one.svs"),
        ("s1.geojson", "S1", "/slides/one.svs"),
        ("a b.geojson", "a b", "/slides/one.svs"),
        ("a%20b.geojson", "a b", "/slides/one.svs"),
        ("sub/b.geojson", "sub/b", "/slides/one.svs"),
        ("sub%2Fb.geojson", "sub/b", "/slides/one.svs"),
        ("cafe\u0301.geojson", "caf\u00e9", "/slides/one.svs"),
        ("caf\u00e9.geojson", "cafe\u0301", "/slides/one.svs"),
        ("one.geojson", "S1", "/slides/one.svs"),
        ("one.svs.geojson", "S1", "/slides/one.svs"),
        ("one.geojson", "S1", "/slides/one.ome.tif"),
        ("one.ome.geojson", "S1", "/slides/one.ome.tif"),
        ("one two.geojson", "S1", "https://example.org/one%20two.svs?token=1"),
        ("切片.geojson", "切片", "/slides/one.svs"),
    ],
)
def test_a_file_is_found_by_the_names_people_type(tmp_path, name, slide_id, uri):
    assert files(tmp_path, name).of(row(slide_id, uri)) == tmp_path / name


def test_the_id_comes_before_the_files_name_and_shadow_files_are_none(tmp_path):
    found = files(tmp_path, "S1.geojson", "one.geojson", "._S2.geojson", ".hidden/S2.geojson", "S2.svs")
    assert found.of(row("S1", "/slides/one.svs")) == tmp_path / "S1.geojson"
    assert found.of(row("S2", "/slides/S2.svs")) is None
    assert PolygonFiles(None, "--tissue").of(row("S1")) is None


def test_two_files_of_one_slide_and_one_of_two_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"S1\.json is of slide S1 too; keep one"):
        files(tmp_path / "a", "S1.geojson", "S1.json").of(row("S1"))
    found = files(tmp_path / "b", "one.geojson")
    with pytest.raises(ConfigError, match=r"fits slide x/one and slide y/one; name it after one slide_id"):
        found.check([row("x/one", "/x/one.svs"), row("y/one", "/y/one.svs")])


def test_files_of_no_slide_are_named(tmp_path, caplog):
    found = files(tmp_path, "S1.geojson", "S3.geojson", "typo.geojson")
    with caplog.at_level(logging.WARNING):
        found.check([row("S1"), row("S2")])
    assert "--tissue" in caplog.text
    assert "S3.geojson, typo.geojson" in caplog.text
    assert "S1.geojson" not in caplog.text
    caplog.clear()
    found.check([row("S1"), row("S3"), row("typo")])
    assert not caplog.text
