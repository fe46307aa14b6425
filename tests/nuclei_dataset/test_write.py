"""Nuclei written: columns, order, the same part however they were cut, and files that other tools open untouched."""

import json
import tracemalloc

import duckdb
import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import shapely

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import (
    NucleusPoints,
    merge_nuclei,
    nuclei_table,
    part_path,
    stage_nuclei,
    write_nuclei,
)
from muse_core.nuclei_dataset.curve import nucleus_ids
from muse_core.nuclei_dataset.geoparquet import covering, wkb_points
from tests.data.make_nuclei import CLASSES, MPP, header, pieces, points, write_slide

COLUMNS = [
    *("slide_id", "project", "nucleus_id", "x_level0", "y_level0", "x_um", "y_um", "class_id", "class_name", "score"),
    *("p_lymphocyte", "p_tumour_epithelial", "p_stromal", "in_tissue", "geometry", "bbox"),
]


@pytest.fixture
def out(tmp_path):
    """Three slides of two projects, 700 nuclei."""
    for n, slide, project in ((400, "S1", "LAB"), (200, "a b/ü", "LAB"), (100, "007-x", "P 2")):
        write_slide(tmp_path, n, slide, project)
    return tmp_path


# What is written


def test_a_row_says_what_the_point_said(tmp_path):
    whole = points(1000)
    about = header()
    assert write_nuclei(part_path(tmp_path, about), [nuclei_table(about, whole)], about) == (1000, 0)
    table = pq.read_table(part_path(tmp_path, about), partitioning=None)
    assert table.column_names == COLUMNS
    ids = table["nucleus_id"].to_numpy()
    assert (np.diff(ids) > 0).all()
    order = np.argsort(nucleus_ids(whole.xy_level0))
    xy = np.round(whole.xy_level0[order] * 64) / 64
    np.testing.assert_array_equal(np.stack([table["x_level0"], table["y_level0"]], axis=1), xy)
    np.testing.assert_allclose(np.stack([table["x_um"], table["y_um"]], axis=1), xy * MPP, rtol=1e-6)
    np.testing.assert_array_equal(table["class_id"], whole.class_ids[order])
    assert table["class_name"].to_pylist() == [CLASSES[i] for i in whole.class_ids[order]]
    np.testing.assert_array_equal(table["score"], whole.score[order])
    np.testing.assert_array_equal(table["p_stromal"], whole.probabilities[order, 2])
    np.testing.assert_array_equal(table["in_tissue"].to_pylist(), whole.in_tissue[order])
    np.testing.assert_array_equal(shapely.get_coordinates(shapely.from_wkb(table["geometry"].to_numpy())), xy)
    assert table.schema.field("x_um").metadata == {b"unit": b"um"}


def test_geo_metadata_names_no_crs_and_a_covering(tmp_path):
    whole = write_slide(tmp_path, 300)
    geo = json.loads(pq.read_schema(part_path(tmp_path, header())).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert "crs" in column
    assert column["crs"] is None  # absent would mean longitude and latitude
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    xy = np.round(whole.xy_level0 * 64) / 64
    assert column["bbox"] == [*xy.min(axis=0), *xy.max(axis=0)]


def test_provenance_is_in_the_file(tmp_path):
    write_slide(tmp_path, 10)
    about = json.loads(pq.read_schema(part_path(tmp_path, header())).metadata[b"muse"])
    assert about["model_id"] == "abc"
    assert about["class_names"] == list(CLASSES)
    assert (about["mpp_x"], about["mpp_y"], about["slide_id"]) == (*MPP, "S1")


def test_the_covering_holds_points_that_float32_cannot():
    xy = np.array([[0.0, 123456.015625], [1_000_000 + 1 / 64, 999_999.984375]])
    box = covering(xy)
    for low, high, axis in (("xmin", "xmax", 0), ("ymin", "ymax", 1)):
        assert (box.field(low).to_numpy().astype(float) <= xy[:, axis]).all()
        assert (box.field(high).to_numpy().astype(float) >= xy[:, axis]).all()
    assert box.field("xmin")[0].as_py() == box.field("xmax")[0].as_py() == 0.0
    assert wkb_points(xy)[0].as_py() == shapely.Point(xy[0]).wkb


@pytest.mark.parametrize("size", [1, 997, 40_000])
def test_the_part_does_not_depend_on_how_nuclei_were_cut(tmp_path, size):
    whole, about = points(40_000 if size > 1 else 50), header()
    at_once, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    write_nuclei(at_once, [nuclei_table(about, whole)], about)
    tables = [nuclei_table(about, piece) for piece in pieces(whole, size)]
    write_nuclei(cut, reversed(tables), about)
    assert cut.read_bytes() == at_once.read_bytes()


def test_row_groups_are_of_one_size_and_lie_together(tmp_path):
    write_slide(tmp_path, 60_000)
    groups = pq.ParquetFile(part_path(tmp_path, header())).metadata
    rows = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert rows == [16_384, 16_384, 16_384, 10_848]
    areas = []
    for i in range(groups.num_row_groups):
        columns = {c.path_in_schema: c.statistics for c in map(groups.row_group(i).column, range(groups.num_columns))}
        x, y = columns["x_level0"], columns["y_level0"]
        assert columns["bbox.xmin"].min <= x.min <= x.max <= columns["bbox.xmax"].max
        areas.append((x.max - x.min) * (y.max - y.min) / 8000**2)
    assert sum(areas) < 2  # in the order of y it would be 1 too, at random 4; on the curve each box is compact
    assert max(areas) < 0.6


def test_of_two_in_one_place_the_surest_stays(tmp_path):
    about = header()
    pair = NucleusPoints(
        xy_level0=np.array([[10.0, 10.0], [10.001, 10.0], [30, 30]]),
        class_ids=np.array([0, 1, 2]),
        score=np.array([0.6, 0.9, 0.7], np.float32),
        probabilities=np.eye(3, dtype=np.float32),
        in_tissue=np.ones(3, bool),
    )
    tables = [nuclei_table(about, piece) for piece in pieces(pair, 1)]
    assert write_nuclei(tmp_path / "a.parquet", tables, about) == (2, 1)
    assert sorted(pq.read_table(tmp_path / "a.parquet")["score"].to_pylist()) == pytest.approx([0.7, 0.9])


def test_a_slide_without_nuclei_has_a_part_without_rows(tmp_path):
    path = part_path(tmp_path, header())
    assert write_nuclei(path, [], header()) == (0, 0)
    assert pq.read_table(path, partitioning=None).column_names == COLUMNS
    assert geopandas.read_parquet(path, partitioning=None).empty


def test_a_tile_without_nuclei_is_a_table_without_rows(tmp_path):
    about = header(embedding_size=4)
    assert len(nuclei_table(about, points(0, embedding=4))) == 0


def test_embeddings_are_kept(tmp_path):
    about = header(embedding_size=8)
    whole = write_slide(tmp_path, 500, embedding_size=8)
    table = pq.read_table(part_path(tmp_path, about), partitioning=None)
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    order = np.argsort(nucleus_ids(whole.xy_level0))
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 8), whole.embedding[order])


def test_writing_is_bounded_in_memory(tmp_path):
    about = header(embedding_size=64)
    before, peaks = pa.total_allocated_bytes(), []

    def tables():
        for number in range(30):
            peaks.append(pa.total_allocated_bytes() - before)
            yield nuclei_table(about, points(2000, seed=number, embedding=64))

    tracemalloc.start()
    write_nuclei(tmp_path / "a.parquet", tables(), about)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(peaks) < 3_000_000  # one table is half a MB, all are 15
    assert peak < 6_000_000


def test_staged_tables_are_merged_and_stay(tmp_path):
    about, whole = header(), points(5000)
    staged = [tmp_path / "staging" / f"{i}.parquet" for i in range(3)]
    for path, piece in zip(staged, pieces(whole, 2000), strict=True):
        stage_nuclei(path, nuclei_table(about, piece))
    assert merge_nuclei(part_path(tmp_path, about), staged, about).n_nuclei == 5000
    assert all(path.exists() for path in staged)


@pytest.mark.parametrize("change", ["torn", "other classes"])
def test_a_staged_file_that_is_not_ours_is_named(tmp_path, change):
    staged, about = tmp_path / "0.parquet", header()
    stage_nuclei(staged, nuclei_table(about, points(100)))
    if change == "torn":
        staged.write_bytes(staged.read_bytes()[:-9])
    else:
        about = header(class_names=("lymphocyte", "tumour", "other"))
    with pytest.raises(DatasetError, match=r"0\.parquet: .*delete it"):
        merge_nuclei(tmp_path / "part.parquet", [staged], about)
    assert not (tmp_path / "part.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_ids": np.array([0, 3])}, "class ids 0 to 3; 0 to 2 needed"),
        ({"score": np.zeros(3, np.float32)}, r"score of shape \(3,\); \(2,\) needed"),
        ({"probabilities": np.zeros((2, 4), np.float32)}, "probabilities of shape"),
        ({"xy_level0": np.array([[1.0, np.nan], [2, 3]])}, "outside 0 to 1048576"),
        ({"xy_level0": np.array([[1.0, -0.5], [2, 3]])}, "outside 0 to 1048576"),
    ],
)
def test_points_that_make_no_sense_are_refused(change, message):
    with pytest.raises(DatasetError, match=message):
        nuclei_table(header(), NucleusPoints(**(vars(points(2)) | change)))


@pytest.mark.parametrize("names", [(), ("a", ""), ("Tumour", "tumour")])
def test_class_names_that_columns_cannot_have_are_refused(names):
    with pytest.raises(DatasetError, match="differ in more than case"):
        _ = header(class_names=names).schema


def test_hostile_names_stay_below_the_folder(tmp_path):
    path = part_path(tmp_path, header("../../etc/passwd", "/"))
    assert path.resolve().is_relative_to(tmp_path / "nuclei")
    assert path.relative_to(tmp_path).parts[1:3] == ("%2F", "%2E.%2F..%2Fetc%2Fpasswd")


# Opened by other tools, as a stranger would


def test_pyarrow_and_pandas_open_the_folder(out):
    assert set(pq.read_table(out / "nuclei")["slide_id"].to_pylist()) == {"S1", "a b/ü", "007-x"}
    assert pa.dataset.dataset(out / "nuclei").count_rows() == 700
    frame = pd.read_parquet(out / "nuclei", columns=["slide_id", "class_name", "x_um"])
    assert frame.groupby("slide_id", observed=True).size().to_dict() == {"S1": 400, "a b/ü": 200, "007-x": 100}
    assert list(frame.class_name.cat.categories) == list(CLASSES)


def test_geopandas_opens_the_folder_and_prunes_by_box(out):
    frame = geopandas.read_parquet(out / "nuclei")
    assert frame.crs is None
    assert len(frame) == 700
    box = (1000.0, 2000.0, 4000.0, 5000.0)
    some = geopandas.read_parquet(out / "nuclei", bbox=box)
    assert 0 < len(some) < 700
    assert len(some) == frame.geometry.intersects(shapely.box(*box)).sum()


def test_duckdb_opens_the_folder(out):
    files = f"{out}/nuclei/**/*.parquet"
    counts = duckdb.sql(f"SELECT slide_id, count(*) FROM '{files}' GROUP BY ALL").fetchall()
    assert dict(counts) == {"S1": 400, "a b/ü": 200, "007-x": 100}
    one = f"SELECT count(*) FROM '{files}' WHERE project = 'P 2' AND class_name = 'stromal' AND bbox.xmin < 9000"
    assert 0 < duckdb.sql(one).fetchall()[0][0] < 100


def test_polars_opens_the_folder(out):
    import polars as pl  # here, as it takes every process of the suite seconds

    frame = pl.scan_parquet(out / "nuclei")
    by_slide = frame.group_by("slide_id").len().collect()
    assert dict(by_slide.cast({"slide_id": pl.String}).iter_rows()) == {"S1": 400, "a b/ü": 200, "007-x": 100}
    assert frame.filter(pl.col("class_name") == "stromal").collect().height > 0


def test_embeddings_are_opened_by_all(tmp_path):
    import polars as pl  # here, as it takes every process of the suite seconds

    write_slide(tmp_path, 100, embedding_size=4)
    assert pl.read_parquet(tmp_path / "nuclei")["embedding"].dtype == pl.Array(pl.Float16, 4)
    kinds = duckdb.sql(f"SELECT typeof(embedding) FROM '{tmp_path}/nuclei/**/*.parquet' LIMIT 1").fetchall()
    assert kinds[0][0].startswith("FLOAT[")
    assert len(geopandas.read_parquet(tmp_path / "nuclei").embedding[0]) == 4
