"""Questions to 10 million nuclei in the dataset, against loading the same nuclei from GeoJSON.

    python -m benchmarks.query_nuclei [--nuclei N] [--slides N] [--geojson N]

The nuclei are those that the shipped model finds in scikit-image's tissue image, tiled over slides with a little
jitter, so that density, classes and probabilities are real. It measures
    write    tables to ordered parts, nuclei a second
    box      the nuclei of a box of 1 mm² after opening, by the library and by SQL; median and slowest of 50, and the
             processor's time, which does not grow when others share the machine
    count    class by slide over all, by SQL
    GeoJSON  a part of one slide, written by the QuPath export: json.load and geopandas.read_file, then a box; all
             nuclei would take in proportion, which is what the ratios say
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from skimage.data import immunohistochemistry

from muse_core.geometry import Box
from muse_core.infer.model import load_nucleus_model
from muse_core.models.nucleus_model import NucleiFound
from muse_core.nuclei_dataset import (
    NucleiDataset,
    NucleiHeader,
    NucleusPoints,
    nuclei_table,
    part_path,
    write_nuclei,
)
from muse_core.nuclei_dataset.export import Selection, write_qupath

MPP = 0.25
IMAGE_MPP = 0.5
BOX_UM = 1000.0
BOXES = 50
JITTER_PX = 3.0  # level-0 px: copies of a nucleus keep its distances and lose its grid
COUNT = "SELECT slide_id, class_name, count(*) FROM nuclei GROUP BY ALL"
IN_BOX = """
    SELECT nucleus_id, class_name, score FROM nuclei
    WHERE slide_id = ? AND x_level0 >= ? AND x_level0 < ? AND y_level0 >= ? AND y_level0 < ?
"""


@dataclass(frozen=True)
class Tissue:
    """One image's nuclei, and the slide that copies of it make."""

    found: NucleiFound
    class_names: tuple[str, ...]
    side_px: float  # of the image, level-0 px
    copies: int  # along a slide's side

    @property
    def side_um(self) -> float:
        """Of the slide."""
        return self.copies * self.side_px * MPP


def real_tissue(per_slide: int) -> Tissue:
    """The nuclei of an image of real tissue, and how many copies make a slide."""
    model = load_nucleus_model(None, device="cpu")
    image = immunohistochemistry()
    (found,) = model.find(image[None])
    sure = found.score >= 0.5
    kept = found.kept(sure)
    copies = max(1, round((per_slide / sure.sum()) ** 0.5))
    return Tissue(kept, model.class_names, len(image) * IMAGE_MPP / MPP, copies)


def rows_of_tiles(tissue: Tissue, seed: int) -> Iterator[NucleusPoints]:
    """A slide's nuclei, one row of copies at a time."""
    rng = np.random.default_rng(seed)
    corners = np.stack([np.arange(tissue.copies) * tissue.side_px, np.zeros(tissue.copies)], axis=1)
    xy = tissue.found.xy * IMAGE_MPP / MPP
    score, chances = np.tile(tissue.found.score, tissue.copies), np.tile(tissue.found.probabilities, (tissue.copies, 1))
    for row in range(tissue.copies):
        places = (xy[None] + corners[:, None] + (0, row * tissue.side_px)).reshape(-1, 2)  # (copies, N, 2) -> (-1, 2)
        places += rng.uniform(-JITTER_PX, JITTER_PX, places.shape)
        yield NucleusPoints(
            xy_level0=np.clip(places, 0, tissue.copies * tissue.side_px - 1 / 64),
            class_ids=chances.argmax(axis=1),
            score=score,
            probabilities=chances,
            in_tissue=np.ones(len(places), bool),
        )


def build(out: Path, tissue: Tissue, slides: int) -> tuple[int, float]:
    """Nuclei written, and seconds."""
    begun, n_nuclei = time.perf_counter(), 0
    for number in range(slides):
        header = NucleiHeader(f"slide-{number:02d}", "BENCH", (MPP, MPP), tissue.class_names)
        tables = (nuclei_table(header, points) for points in rows_of_tiles(tissue, number))
        n_nuclei += write_nuclei(part_path(out, header), tables, header).n_nuclei
    return n_nuclei, time.perf_counter() - begun


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def boxes(tissue: Tissue, slide_ids: list[str]) -> list[tuple[str, Box]]:
    """Random boxes of 1 mm² on random slides."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, max(0.0, tissue.side_um - BOX_UM), (BOXES, 2))
    return [(slide_ids[rng.integers(len(slide_ids))], Box(x, y, BOX_UM, BOX_UM)) for x, y in corners.tolist()]


def ask(out: Path, tissue: Tissue) -> dict[str, float]:
    """Times of opening, boxes and counts."""
    figures: dict[str, float] = {}
    begun = time.perf_counter()
    dataset = NucleiDataset(out)
    n_nuclei = len(dataset)
    figures["open_s"] = time.perf_counter() - begun
    asked, sizes = boxes(tissue, dataset.slide_ids), []
    for name, box in asked[:2]:
        dataset.within(name, box)  # imports and the first threads are not what is asked

    def by_library(name: str, box: Box) -> None:
        sizes.append(len(dataset.within(name, box)))

    begun_cpu = time.process_time()
    in_library = [seconds(lambda name=name, box=box: by_library(name, box)) for name, box in asked]
    figures["box_cpu_ms"] = 1000 * (time.process_time() - begun_cpu) / len(asked)
    with dataset.duckdb() as database:

        def by_sql(name: str, box: Box) -> None:
            edges = [edge / MPP for edge in (box.x, box.right, box.y, box.bottom)]
            assert len(database.execute(IN_BOX, [name, *edges]).fetchall()) in sizes

        figures["count_s"] = min(seconds(lambda: database.sql(COUNT).fetchall()) for _ in range(3))
        in_sql = [seconds(lambda name=name, box=box: by_sql(name, box)) for name, box in asked]
    for label, times in (("box", in_library), ("box_sql", in_sql)):
        figures |= {f"{label}_ms": 1000 * float(np.median(times)), f"{label}_slowest_ms": 1000 * max(times)}
    return figures | {"nuclei_a_box": float(np.mean(sizes)), "nuclei": n_nuclei}


def ask_geojson(out: Path, folder: Path, wanted: int) -> dict[str, float]:
    """Times of loading a part of a slide from GeoJSON and cutting a box out of it."""
    dataset = NucleiDataset(out)
    slide_id = dataset.slide_ids[0]
    part = dataset.part(slide_id)
    side_px = (wanted / part.n_nuclei) ** 0.5 * tissue_side_px(dataset, slide_id)
    path = folder / "part.geojson"
    begun = time.perf_counter()
    n_nuclei = write_qupath(path, dataset, Selection(slide_id, Box(0, 0, side_px, side_px)))
    written_s = time.perf_counter() - begun
    edges = (0, 0, BOX_UM / MPP, BOX_UM / MPP)

    def with_json() -> int:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        xy = np.array([feature["geometry"]["coordinates"] for feature in features])
        return int(shapely.contains_xy(shapely.box(*edges), xy).sum())

    def with_geopandas() -> int:
        return len(geopandas.read_file(path).cx[edges[0] : edges[2], edges[1] : edges[3]])

    parquet_bytes = sum(Path(one.path).stat().st_size for name in dataset.slide_ids for one in dataset.parts(name))
    return {
        "geojson_nuclei": n_nuclei,
        "geojson_written_per_s": n_nuclei / written_s,
        "geojson_json_s": seconds(with_json),
        "geojson_geopandas_s": seconds(with_geopandas),
        "geojson_bytes_a_nucleus": path.stat().st_size / n_nuclei,
        "parquet_bytes_a_nucleus": parquet_bytes / len(dataset),
    }


def tissue_side_px(dataset: NucleiDataset, slide_id: str) -> float:
    """The longer side of what holds nuclei, level-0 px, from the row groups' statistics."""
    tables = dataset.tables(slide_id, ["x_level0", "y_level0"])
    return max(float(np.max(column)) for table in tables for column in table.columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=10_000_000)
    parser.add_argument("--slides", type=int, default=10)
    parser.add_argument("--geojson", type=int, default=200_000)
    args = parser.parse_args()
    tissue = real_tissue(args.nuclei // args.slides)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_nuclei, written_s = build(folder / "out", tissue, args.slides)
        figures: dict[str, Any] = {"write_per_s": n_nuclei / written_s, **ask(folder / "out", tissue)}
        figures |= ask_geojson(folder / "out", folder, args.geojson)
    scale = figures["nuclei"] / figures["geojson_nuclei"]
    for reader in ("json", "geopandas"):
        figures[f"geojson_{reader}_over_box"] = 1000 * scale * figures[f"geojson_{reader}_s"] / figures["box_ms"]
    print_table(figures, args.slides, scale)
    print(json.dumps({"benchmark": "query_nuclei", **figures}))


def print_table(figures: dict[str, Any], slides: int, scale: float) -> None:
    print(f"{figures['nuclei']:,} nuclei on {slides} slides, {figures['write_per_s']:,.0f} a second written")
    print(f"{'opening, with every footer':<44}{1000 * figures['open_s']:10.1f} ms")
    label = f"box of 1 mm2, library ({figures['nuclei_a_box']:,.0f} nuclei)"
    print(f"{label:<44}", end="")
    print(f"{figures['box_ms']:10.1f} ms, slowest {figures['box_slowest_ms']:.1f}, CPU {figures['box_cpu_ms']:.1f}")
    print(f"{'box of 1 mm2, SQL':<44}{figures['box_sql_ms']:10.1f} ms, slowest {figures['box_sql_slowest_ms']:.1f}")
    print(f"{'class by slide over all, SQL':<44}{1000 * figures['count_s']:10.1f} ms")
    for reader in ("json", "geopandas"):
        loaded, ratio = figures[f"geojson_{reader}_s"], figures[f"geojson_{reader}_over_box"]
        label = f"GeoJSON by {reader}, {figures['geojson_nuclei']:,} nuclei"
        print(f"{label:<44}", end="")
        print(f"{1000 * loaded:10.1f} ms, {scale * loaded:,.0f} s for all in proportion: {ratio:,.0f} x the box")
    print(f"{'bytes a nucleus':<44}{figures['parquet_bytes_a_nucleus']:10.1f}, GeoJSON ", end="")
    print(f"{figures['geojson_bytes_a_nucleus']:.1f}")


if __name__ == "__main__":
    main()
