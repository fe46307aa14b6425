"""Which layout of Parquet folders every reader opens, filters and joins: layouts x readers x ids like numbers.

    python benchmarks/table_layouts.py [--json]

Each layout is written in a temporary folder with two slides a pair of ids, then opened as each library opens a folder
when left to itself, and with hive partitioning asked for. A call passes where both ids come back as the strings that
they are, a filter by one finds its rows alone, and a join with the slides table loses none.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe
import duckdb
import geopandas
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import shapely

IDS = [("S1", "S2"), ("0012", "0013"), ("12345", "S1"), ("2024", "2025"), ("null", "NULL"), ("true", "false")]
IDS += [("2024-01-01", "2024-01-02"), ("1e5", "2.50"), ("a b", "käse"), ("nan", "inf")]
_NAME = pa.dictionary(pa.int32(), pa.string())
LAYOUTS: dict[str, tuple[str, pa.DataType | None]] = {  # folder of a slide, type of its columns in the file
    "hive, no columns": ("project={project}/slide_id={slide}", None),
    "hive, dictionary columns": ("project={project}/slide_id={slide}", _NAME),
    "hive, string columns": ("project={project}/slide_id={slide}", pa.string()),
    "other keys, string columns": ("in_project={project}/of_slide={slide}", pa.string()),
    "plain, dictionary columns": ("{project}/{slide}", _NAME),
    "plain, string columns": ("{project}/{slide}", pa.string()),
}


def pandas_folder(root: Path, wanted: str) -> tuple[Any, Any]:
    """pandas.read_parquet of the folder."""
    everything = pandas.read_parquet(root)
    return everything, pandas.read_parquet(root, filters=[("slide_id", "==", wanted)])


def arrow_table(root: Path, wanted: str) -> tuple[Any, Any]:
    """pyarrow.parquet.read_table of the folder."""
    return pq.read_table(root).to_pandas(), pq.read_table(root, filters=[("slide_id", "=", wanted)]).to_pandas()


def arrow_hive(root: Path, wanted: str) -> tuple[Any, Any]:
    """pyarrow.dataset with hive partitioning."""
    found = pyarrow.dataset.dataset(root, partitioning="hive")
    return found.to_table().to_pandas(), found.to_table(filter=pc.field("slide_id") == wanted).to_pandas()


def arrow_plain(root: Path, wanted: str) -> tuple[Any, Any]:
    """pyarrow.dataset without partitioning."""
    found = pyarrow.dataset.dataset(root)
    return found.to_table().to_pandas(), found.to_table(filter=pc.field("slide_id") == wanted).to_pandas()


def polars_folder(root: Path, wanted: str) -> tuple[Any, Any]:
    """polars.scan_parquet of the folder."""
    found = polars.scan_parquet(root)
    return found.collect().to_pandas(), found.filter(polars.col("slide_id") == wanted).collect().to_pandas()


def polars_glob(root: Path, wanted: str) -> tuple[Any, Any]:
    """polars.scan_parquet of a glob, with hive partitioning."""
    found = polars.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=True)
    return found.collect().to_pandas(), found.filter(polars.col("slide_id") == wanted).collect().to_pandas()


def duckdb_glob(root: Path, wanted: str) -> tuple[Any, Any]:
    """DuckDB's read_parquet of a glob."""
    query = f"FROM read_parquet('{root}/**/*.parquet')"
    return duckdb.sql(query).df(), duckdb.sql(f"{query} WHERE slide_id = '{wanted}'").df()


def duckdb_hive(root: Path, wanted: str) -> tuple[Any, Any]:
    """DuckDB's read_parquet of a glob, with hive partitioning."""
    query = f"FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(query).df(), duckdb.sql(f"{query} WHERE slide_id = '{wanted}'").df()


def dask_folder(root: Path, wanted: str) -> tuple[Any, Any]:
    """dask.dataframe.read_parquet of the folder."""
    found = dask.dataframe.read_parquet(root)
    filtered = dask.dataframe.read_parquet(root, filters=[("slide_id", "==", wanted)])
    return found.compute(), filtered.compute()


def geopandas_folder(root: Path, wanted: str) -> tuple[Any, Any]:
    """geopandas.read_parquet of the folder."""
    return geopandas.read_parquet(root), geopandas.read_parquet(root, filters=[("slide_id", "==", wanted)])


READERS = [pandas_folder, arrow_table, arrow_hive, arrow_plain, polars_folder, polars_glob, duckdb_glob, duckdb_hive]
READERS += [dask_folder, geopandas_folder]


def write_layout(out: Path, layout: str, ids: tuple[str, ...]) -> None:
    """A part of three rows a slide, and the slides table; each id is a project too."""
    folder, kind = LAYOUTS[layout]
    geo = {"version": "1.1.0", "primary_column": "geometry"}
    geo["columns"] = {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": None}}
    for slide in ids:
        columns: dict[str, Any] = {"x": [1.0, 2.0, 3.0], "geometry": [shapely.to_wkb(shapely.Point(1, 2))] * 3}
        if kind is not None:
            columns |= {name: pa.array([slide] * 3).cast(kind) for name in ("slide_id", "project")}
        path = out / "nuclei" / folder.format(project=slide.replace(" ", "%20"), slide=slide.replace(" ", "%20"))
        path.mkdir(parents=True)
        table = pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo)})
        pq.write_table(table, path / "part-0000.parquet")
    pq.write_table(pa.table({"slide_id": list(ids), "status": ["done"] * len(ids)}), out / "slides.parquet")


def fault(out: Path, read: Callable[[Path, str], tuple[Any, Any]], ids: tuple[str, ...]) -> str:
    """What is wrong with a call; empty where nothing is."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            everything, filtered = read(out / "nuclei", ids[0])
    except Exception as error:  # any of six libraries'
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    for name in ("slide_id", "project"):
        if sorted(map(str, everything[name])) != sorted([*ids] * 3) or not all(
            isinstance(one, str) for one in everything[name]
        ):
            return f"{name} is {sorted(set(everything[name]), key=str)}"
    joined = everything.merge(pandas.read_parquet(out / "slides.parquet"), on="slide_id")
    if len(joined) != 3 * len(ids):
        return f"{len(joined)} of {3 * len(ids)} rows joined"
    return "" if len(filtered) == 3 else f"{len(filtered)} of 3 rows found"


def main() -> None:
    """Print who fails where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    faults: dict[str, dict[str, list[str]]] = {}
    for layout in LAYOUTS:
        for ids in IDS:
            with tempfile.TemporaryDirectory() as name:
                write_layout(Path(name), layout, ids)
                for read in READERS:
                    found = faults.setdefault(layout, {}).setdefault(read.__name__, [])
                    if wrong := fault(Path(name), read, ids):
                        found.append(f"{'/'.join(ids)}: {wrong}")
    if arguments.json:
        print(json.dumps(faults))
        return
    for layout, by_reader in faults.items():
        n_calls = len(READERS) * len(IDS)
        print(f"\n{layout}: {n_calls - sum(map(len, by_reader.values()))} of {n_calls} calls pass")
        for reader, found in by_reader.items():
            print(f"  {reader:17} {len(IDS) - len(found)}/{len(IDS)}  {found[0] if found else ''}")


if __name__ == "__main__":
    main()
