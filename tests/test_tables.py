"""Every table that a run leaves, opened untouched by every reader, with ids and projects that look like numbers."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from muse_core.machine.files import normal_form
from muse_core.nuclei_dataset import NucleiDataset
from muse_core.roi_dataset.dataset import RoiDataset
from muse_core.roi_dataset.write import RoiRow, write_rois
from muse_core.roi_dataset.write import part_path as roi_part_path
from muse_core.schemas import INFERRED_SLIDES, NUCLEI, ROIS, SLIDES
from tests.data.make_nuclei import write_slide, write_slides_table

NUMBERS = ("0012", "12345", "2024", "99999999999999999999", "1e5", "-1", "0x1F")
DATES = ("2024-01-01", "2024-01-01 10:00:00", "20240101")
WORDS = ("null", "NULL", "None", "true", "False", "nan", "NA", "__HIVE_DEFAULT_PARTITION__")
NAMES = ("S1", "a b", "a=b", "k=1", "käse", "切片 7", "_hidden", ".hidden", "50%", "it's", "[1]*?", "a/b")
NAMES += ("x" * 251, "切" * 83, "é" * 120, "🔬" * 60)  # as long as a file's name may be
COHORTS = {"numbers": NUMBERS, "dates": DATES, "all": (*NUMBERS, *DATES, *WORDS, *NAMES)}
ROWS = 3  # of each slide

# Dask's own use of pandas.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning")


@dataclass(frozen=True)
class Cohort:
    """An output folder, and the ids of its slides, each of which is its project too."""

    out: Path
    ids: tuple[str, ...]


@pytest.fixture(scope="session", params=COHORTS)
def cohort(request, tmp_path_factory) -> Cohort:
    out, ids = tmp_path_factory.mktemp(request.param), COHORTS[request.param]
    for slide_id in ids:
        write_slide(out, ROWS, slide_id, slide_id)
        write_rois(roi_part_path(out, slide_id, slide_id, 0), (roi(slide_id, number) for number in range(ROWS)), {})
    write_slides_table(out, dict.fromkeys(ids, 1.0))
    return Cohort(out, ids)


def roi(slide_id: str, number: int) -> RoiRow:
    place = {"x_level0": 0.0, "y_level0": 0.0, "width_level0": 8.0, "height_level0": 8.0, "mpp": 0.25}
    nuclei = np.zeros((number, 3), np.float32)
    size = {"width_px": 8, "height_px": 8, "tissue_fraction": 1.0, "nuclei": nuclei, "image": b"x"}
    return RoiRow(f"{slide_id}_{number}", slide_id, slide_id, slide_id, **place, **size)


def pandas_folder(root, columns, wanted):
    return pandas.read_parquet(root, columns=columns, filters=None if wanted is None else [("slide_id", "==", wanted)])


def pyarrow_table(root, columns, wanted):
    filters = None if wanted is None else [("slide_id", "=", wanted)]
    return pq.read_table(root, columns=columns, filters=filters).to_pandas()


def pyarrow_hive(root, columns, wanted):
    found = pyarrow.dataset.dataset(root, partitioning="hive")
    return found.to_table(columns, filter=None if wanted is None else pc.field("slide_id") == wanted).to_pandas()


def pyarrow_plain(root, columns, wanted):
    found = pyarrow.dataset.dataset(root)
    return found.to_table(columns, filter=None if wanted is None else pc.field("slide_id") == wanted).to_pandas()


def polars_folder(root, columns, wanted):
    import polars  # here, as it takes every process of the suite seconds

    found = polars.scan_parquet(root)
    found = found if wanted is None else found.filter(polars.col("slide_id") == wanted)
    return found.select(columns).collect().to_pandas()


def polars_hive(root, columns, wanted):
    import polars

    found = polars.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=True)
    found = found if wanted is None else found.filter(polars.col("slide_id") == wanted)
    return found.select(columns).collect().to_pandas()


def _duckdb(root, columns, wanted, options=""):
    query = f"SELECT {', '.join(columns)} FROM read_parquet('{root}/**/*.parquet'{options})"
    where, values = ("", []) if wanted is None else (" WHERE slide_id = ?", [wanted])
    with duckdb.connect() as database:
        return database.sql(query + where, params=values).df()


def duckdb_glob(root, columns, wanted):
    return _duckdb(root, columns, wanted)


def duckdb_hive(root, columns, wanted):
    return _duckdb(root, columns, wanted, ", hive_partitioning = true")


def dask_folder(root, columns, wanted):
    import dask.dataframe  # here, as it takes every process of the suite seconds

    filters = None if wanted is None else [("slide_id", "==", wanted)]
    return dask.dataframe.read_parquet(root, columns=columns, filters=filters).compute()


def geopandas_folder(root, columns, wanted):
    filters = None if wanted is None else [("slide_id", "==", wanted)]
    found = geopandas.read_parquet(root, columns=[*columns, "geometry"], filters=filters)
    assert found.crs is None
    return found[columns]


READERS = [pandas_folder, pyarrow_table, pyarrow_hive, pyarrow_plain, polars_folder, polars_hive]
READERS += [duckdb_glob, duckdb_hive, dask_folder]
OPENED = [("nuclei", reader) for reader in [*READERS, geopandas_folder]] + [("rois", reader) for reader in READERS]


@pytest.mark.parametrize(("table", "read"), OPENED, ids=lambda value: getattr(value, "__name__", value))
def test_every_reader_opens_filters_and_joins_a_folder_as_it_is(cohort, table, read):
    columns = ["slide_id", "project"] + (["class_name"] if table == "nuclei" else ["n_nuclei"])
    root, ids = cohort.out / table, sorted(normal_form(one) for one in cohort.ids)
    whole = read(root, columns, None)
    for name in ("slide_id", "project"):
        assert all(isinstance(one, str) for one in whole[name])
        assert sorted(whole[name]) == sorted(ids * ROWS)
    slides = pandas.read_parquet(cohort.out / "slides.parquet", columns=["slide_id", "tissue_mm2"])
    joined = whole.merge(slides, on="slide_id")
    assert joined.groupby("slide_id", observed=True)["tissue_mm2"].count().to_dict() == dict.fromkeys(ids, ROWS)
    for wanted in (ids[0], ids[-1]):
        assert list(read(root, columns, wanted)["slide_id"]) == [wanted] * ROWS
    assert not len(read(root, columns, "none of them"))


def test_our_own_reader_knows_every_slide_by_its_id(cohort):
    dataset, ids = NucleiDataset(cohort.out), sorted(normal_form(one) for one in cohort.ids)
    assert dataset.slide_ids == ids
    with dataset.duckdb() as database:
        query = "SELECT slide_id, count(*) FROM nuclei JOIN slides USING (slide_id) GROUP BY ALL"
        counted = database.sql(query).fetchall()
    assert sorted(counted) == [(one, ROWS) for one in ids]
    assert sorted(dataset.arrow().to_table(["slide_id"])["slide_id"].to_pylist()) == sorted(ids * ROWS)
    assert sorted(RoiDataset(cohort.out).table(["slide_id"])["slide_id"].to_pylist()) == sorted(ids * ROWS)


def test_a_column_has_one_type_in_every_table_and_file(cohort):
    schemas = [NUCLEI, ROIS, SLIDES, INFERRED_SLIDES]
    sizes = {"width_level0", "height_level0"}  # of a slide whole px, of a ROI what its µm come to
    for name in {name for schema in schemas for name in schema.names} - sizes:
        assert len({schema.field(name).type for schema in schemas if name in schema.names}) == 1, name
    for table, schema in (("nuclei", NUCLEI), ("rois", ROIS)):
        for path in (cohort.out / table).rglob("*.parquet"):
            found = pq.read_schema(path)
            assert all(found.field(field.name).type == field.type for field in schema)
            assert found.field("slide_id").type == pa.string()


def test_all_readers_count_as_duckdb_does_by_class_and_slide(cohort):
    root = cohort.out / "nuclei"
    query = f"SELECT slide_id, class_name, count(*) AS n FROM '{root}/**/*.parquet' GROUP BY ALL"
    with duckdb.connect() as database:
        counted = {(one, name): n for one, name, n in database.sql(query).fetchall()}
    for read in (pandas_folder, pyarrow_hive, polars_folder, dask_folder):
        frame = read(root, ["slide_id", "class_name"], None).astype(str)
        assert frame.value_counts().to_dict() == counted, read.__name__
