"""`muse export` and `muse report` as people type it."""

import json

import pytest
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.errors import ConfigError, DatasetError
from muse_core.nuclei_dataset import NucleiDataset
from tests.data.make_nuclei import write_slide, write_slides_table
from tests.nuclei_dataset.test_export import read_as_qupath


@pytest.fixture
def nuclei(tmp_path):
    write_slide(tmp_path, 2000, provenance={"bounds_level0": [100.0, 50.0, 7000.0, 7000.0]})
    return tmp_path


def muse(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_export_qupath_counts_from_the_bounds_unless_told_otherwise(nuclei):
    where = ("--nuclei", nuclei, "--slide-id", "S1")
    done = muse("export", "qupath", *where, "--out", nuclei / "a.geojson", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["n_nuclei"], facts["origin_level0"]) == (2000, [100.0, 50.0])
    muse("export", "qupath", *where, "--out", nuclei / "b.geojson", "--no-crop")
    (_, _, cropped, *_), *_ = read_as_qupath(nuclei / "a.geojson")
    (_, _, whole, *_), *_ = read_as_qupath(nuclei / "b.geojson")
    assert [cropped[0] + 100, cropped[1] + 50] == whole


def test_a_region_drawn_in_qupath_selects_what_qupath_shows_inside_it(nuclei):
    region = {"type": "Polygon", "coordinates": [[[0, 0], [2000, 0], [2000, 2000], [0, 2000], [0, 0]]]}
    (nuclei / "region.geojson").write_text(json.dumps({"type": "Feature", "geometry": region, "properties": {}}))
    where = ("--nuclei", nuclei, "--slide-id", "S1", "--region", nuclei / "region.geojson", "--class", "stromal")
    muse("export", "qupath", *where, "--out", nuclei / "some.geojson")
    found = read_as_qupath(nuclei / "some.geojson")
    assert 10 < len(found) < 100
    assert all(0 < x < 2000 and 0 < y < 2000 for _, _, (x, y), *_ in found)
    done = muse("export", "csv", *where, "--out", nuclei / "some.csv")
    assert f"{len(found)} nuclei" in done.stdout
    assert len((nuclei / "some.csv").read_text().splitlines()) == len(found) + 1


def test_report_takes_settings(nuclei):
    write_slides_table(nuclei, {"S1": 4.2})
    done = muse("report", "--nuclei", nuclei, "--out", nuclei / "a.html", "--set", "typical=0", "--json")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["n_slides"], facts["n_nuclei"], facts["settings"]["typical"]) == (1, 2000, 0)
    assert facts["n_bytes"] == (nuclei / "a.html").stat().st_size
    with pytest.raises(ConfigError, match="unknown key 'typcal'"):
        muse("report", "--nuclei", nuclei, "--out", nuclei / "a.html", "--set", "typcal=0")


def test_wrong_names_are_told(nuclei):
    (nuclei / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    where = ("--nuclei", nuclei, "--out", nuclei / "a.geojson")
    with pytest.raises(DatasetError, match="slide 'S7': not in"):
        muse("export", "qupath", *where, "--slide-id", "S7")
    with pytest.raises(ConfigError, match="class 'plasma'"):
        muse("export", "qupath", *where, "--slide-id", "S1", "--class", "plasma")
    with pytest.raises(DatasetError, match="holds no area"):
        muse("export", "qupath", *where, "--slide-id", "S1", "--region", nuclei / "none.geojson")
    assert not (nuclei / "a.geojson").exists()
    assert len(NucleiDataset(nuclei)) == 2000
