"""Boxes, polygons, SQL and data frames, against plain selections from the points that were written."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from muse_core.errors import ConfigError, DatasetError
from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset, part_path
from muse_core.nuclei_dataset.curve import snapped
from tests.data.make_nuclei import CLASSES, MPP, header, write_slide, write_slides_table


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuclei [1]*'s")  # characters that mean something in patterns
    write_slide(folder, 40_000, "S1")
    write_slide(folder, 300, "S2", "P 2")
    write_slides_table(folder, {"S1": 4.0, "S2": 0.5})
    return folder


@pytest.fixture(scope="module")
def xy(tmp_path_factory):
    return snapped(write_slide(tmp_path_factory.mktemp("again"), 40_000, "S1").xy_level0)


@pytest.mark.parametrize("inner", ["", "nuclei"])
def test_a_dataset_is_found_from_its_folder_or_the_one_above(out, inner):
    dataset = NucleiDataset(out / inner)
    assert dataset.slide_ids == ["S1", "S2"]
    assert len(dataset) == 40_300
    assert dataset.class_names == CLASSES
    assert dataset.part("S1").provenance["model_id"] == "abc"
    assert dataset.slides().num_rows == 2


def test_a_url_is_opened_too(tmp_path):
    write_slide(tmp_path, 50)
    assert len(NucleiDataset(tmp_path.as_uri())) == 50


@pytest.mark.parametrize("frame", ["um", "level0"])
def test_a_box_holds_what_lies_in_it(out, xy, frame):
    scale = np.array(MPP) if frame == "um" else np.ones(2)
    box = Box(300.0, 400.0, 500.0, 250.0)
    places = xy * scale
    inside = (places >= (box.x, box.y)).all(axis=1) & (places < (box.right, box.bottom)).all(axis=1)
    found = NucleiDataset(out).within("S1", box, frame=frame)
    got = np.stack([found["x_level0"].to_numpy(), found["y_level0"].to_numpy()], axis=1)
    assert inside.sum() > 50
    assert sorted(map(tuple, got)) == sorted(map(tuple, xy[inside]))


def test_boxes_side_by_side_share_no_nucleus_and_lose_none(out):
    dataset, side = NucleiDataset(out), 8000 / 64
    tiles = [Box(x * side * 16, y * side * 16, side * 16, side * 16) for x in range(4) for y in range(4)]
    found = [dataset.within("S1", tile, frame="level0", columns=["nucleus_id"]) for tile in tiles]
    ids = np.concatenate([table["nucleus_id"].to_numpy() for table in found])
    assert len(ids) == len(set(ids.tolist())) == 40_000


def test_a_box_reads_few_row_groups(out):
    part = NucleiDataset(out).part("S1")
    assert part.metadata.num_row_groups == 3
    assert part.groups_in(Box(0, 0, 500, 500)) == [0]
    assert part.groups_in(Box(9000, 9000, 10, 10)) == []


def test_a_box_with_nothing_in_it_keeps_its_columns(out):
    table = NucleiDataset(out).within("S1", Box(1e5, 1e5, 10, 10), columns=["score", "class_name"])
    assert table.num_rows == 0
    assert table.column_names == ["score", "class_name"]


def test_a_polygon_holds_what_shapely_says(out, xy):
    ring = shapely.Point(900, 1000).buffer(400) - shapely.Point(900, 1000).buffer(200)
    found = NucleiDataset(out).within("S1", ring, columns=["nucleus_id"])
    assert found.column_names == ["nucleus_id"]
    assert found.num_rows == shapely.contains_xy(ring, xy * MPP).sum() > 500
    pixels = shapely.transform(ring, lambda at: at / MPP)
    assert NucleiDataset(out).within("S1", pixels, frame="level0").num_rows == found.num_rows
    assert NucleiDataset(out).within("S1", shapely.Polygon()).num_rows == 0


def test_sql_sees_nuclei_and_slides(out):
    with NucleiDataset(out).duckdb() as database:
        rows = database.sql("SELECT slide_id, project, count(*) FROM nuclei GROUP BY ALL ORDER BY ALL").fetchall()
        assert rows == [("S1", "LAB", 40_000), ("S2", "P 2", 300)]
        assert database.sql("SELECT sum(tissue_mm2) FROM slides").fetchall() == [(4.5,)]


def test_slides_whose_names_are_numbers_stay_strings(tmp_path):
    write_slide(tmp_path, 5, "007")
    write_slide(tmp_path, 6, "2020-01-01")
    dataset = NucleiDataset(tmp_path)
    with dataset.duckdb() as database:
        assert database.sql("SELECT DISTINCT slide_id FROM nuclei ORDER BY 1").fetchall() == [("007",), ("2020-01-01",)]
    assert set(dataset.arrow().to_table(columns=["slide_id"])["slide_id"].to_pylist()) == {"007", "2020-01-01"}


def test_slides_of_different_models_are_one_table(tmp_path):
    write_slide(tmp_path, 10, "S1")
    write_slide(tmp_path, 20, "S2", class_names=("nucleus",), embedding_size=4)
    dataset = NucleiDataset(tmp_path)
    assert dataset.class_names == (*CLASSES, "nucleus")
    table = dataset.arrow().to_table(columns=["p_nucleus", "p_stromal"])
    assert (table["p_nucleus"].null_count, table["p_stromal"].null_count) == (10, 20)
    with dataset.duckdb() as database:
        assert database.sql("SELECT count(p_nucleus), count(p_stromal) FROM nuclei").fetchall() == [(20, 10)]


def test_a_geodataframe_of_a_box(out, xy):
    frame = NucleiDataset(out).geopandas("S1", area=Box(0, 0, 100, 100))
    assert frame.crs is None
    assert len(frame) == (xy * MPP < 100).all(axis=1).sum()
    assert frame.geometry.x.max() < 100 / MPP[0]
    assert len(NucleiDataset(out).geopandas("S1", area=shapely.box(0, 0, 100, 100))) == len(frame)
    assert len(NucleiDataset(out).geopandas("S2")) == 300


def test_what_is_not_there_is_named(out, tmp_path):
    dataset = NucleiDataset(out)
    with pytest.raises(DatasetError, match=r"slide 'S9': not in .*there are 2: S1, S2"):
        dataset.within("S9", Box(0, 0, 1, 1))
    with pytest.raises(DatasetError, match="no column colour; it has slide_id"):
        dataset.within("S1", Box(0, 0, 1, 1), columns=["colour"])
    with pytest.raises(ConfigError, match="frame 'mm': needs um or level0"):
        dataset.within("S1", Box(0, 0, 1, 1), frame="mm")
    with pytest.raises(DatasetError, match="no such folder; give the folder that muse infer"):
        NucleiDataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no nuclei dataset"):
        NucleiDataset(tmp_path)
    assert len(list(tmp_path.iterdir())) == 0


def test_a_damaged_part_is_named(tmp_path):
    write_slide(tmp_path, 100)
    path = part_path(tmp_path, header())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DatasetError, match=r"part-0000\.parquet: damaged or not whole"):
        len(NucleiDataset(tmp_path))


def test_parquet_that_is_no_part_is_named(tmp_path):
    write_slide(tmp_path, 100)
    path = part_path(tmp_path, header())
    pq.write_table(pq.read_table(path, partitioning=None).replace_schema_metadata({}), path)
    with pytest.raises(DatasetError, match="not a part of a nuclei dataset, it has no metadata 'muse'"):
        NucleiDataset(tmp_path).part("S1").provenance.get("model_id")


def test_parts_without_statistics_are_searched_whole(tmp_path):
    write_slide(tmp_path, 100)
    path = part_path(tmp_path, header())
    pq.write_table(pq.read_table(path, partitioning=None), path, write_statistics=False)
    assert NucleiDataset(tmp_path).within("S1", Box(0, 0, 1e5, 1e5)).num_rows == 100


def test_unfinished_files_are_passed_over(tmp_path):
    write_slide(tmp_path, 100)
    folder = part_path(tmp_path, header()).parent
    (folder / ".part-0000.parquet.abc.tmp").write_bytes(b"half")
    (folder / ".staging-x").mkdir()
    (folder / ".staging-x" / ".000000.tmp").write_bytes(b"half")
    assert len(NucleiDataset(tmp_path)) == 100


def test_parts_of_earlier_versions_are_read_with_todays_types(tmp_path):
    write_slide(tmp_path / "new", 40, "käse 1")
    old = tmp_path / "old" / "nuclei" / "project=LAB" / "slide_id=k%C3%A4se%201" / "part-0000.parquet"
    old.parent.mkdir(parents=True)
    table = pq.read_table(part_path(tmp_path / "new", header("käse 1")))
    for name in ("slide_id", "project"):
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    pq.write_table(table, old)
    new, earlier = NucleiDataset(tmp_path / "new"), NucleiDataset(tmp_path / "old")
    assert earlier.slide_ids == ["käse 1"]
    (found,) = earlier.tables("käse 1")
    assert found.equals(next(new.tables("käse 1")))
    assert earlier.arrow().to_table(["slide_id", "x_um"]).equals(new.arrow().to_table(["slide_id", "x_um"]))
    with earlier.duckdb() as database:
        assert database.sql("SELECT DISTINCT slide_id, project FROM nuclei").fetchall() == [("käse 1", "LAB")]


def test_a_slide_is_found_by_either_unicode_form_of_its_name(tmp_path):
    write_slide(tmp_path, 7, "cafe\u0301")
    dataset = NucleiDataset(tmp_path)
    assert dataset.slide_ids == ["caf\u00e9"]
    assert sum(map(len, dataset.tables("cafe\u0301"))) == sum(map(len, dataset.tables("caf\u00e9"))) == 7
