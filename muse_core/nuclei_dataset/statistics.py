"""What analysts ask first: densities, counts in regions, neighbours, a table of the cohort; as Arrow tables.

Densities are nuclei in tissue per mm² of tissue; the tissue's area comes from the slides table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset.dataset import NucleiDataset
from muse_core.nuclei_dataset.regions import read_regions

_DENSITIES = """
    WITH classes AS (SELECT UNNEST(?::VARCHAR[]) AS slide_id, UNNEST(?::VARCHAR[]) AS class_name),
    areas AS (SELECT slide_id, project, tissue_mm2 FROM slides WHERE status = 'done'),
    counts AS (
        SELECT slide_id, class_name, count(*) AS n_nuclei, count(*) FILTER (in_tissue) AS n_in_tissue,
               avg(score) AS mean_score
        FROM nuclei GROUP BY ALL
    )
    SELECT slide_id, project, class_name, coalesce(n_nuclei, 0) AS n_nuclei, tissue_mm2,
           coalesce(n_in_tissue, 0) / nullif(tissue_mm2, 0) AS per_mm2,
           coalesce(n_nuclei, 0) / nullif(sum(n_nuclei) OVER (PARTITION BY slide_id), 0) AS share, mean_score
    FROM areas JOIN classes USING (slide_id) LEFT JOIN counts USING (slide_id, class_name)
    ORDER BY slide_id, list_position(?::VARCHAR[], class_name)
"""

_SLIDE = [
    *((name, pa.string()) for name in ("slide_id", "project")),
    ("n_nuclei", pa.int64()),
    *((name, pa.float64()) for name in ("tissue_mm2", "per_mm2", "mean_score")),
]
_REGION = [
    ("region", pa.int64()),
    *((name, pa.string()) for name in ("name", "classification")),
    ("area_mm2", pa.float64()),
    ("n_nuclei", pa.int64()),
]
_OF_CLASS = {"n": pa.int64(), "share": pa.float64(), "per_mm2": pa.float64()}

_NEIGHBOURS = pa.schema(
    [
        ("of", pa.string()),
        ("to", pa.string()),
        ("n_of", pa.int64()),
        *((name, pa.float64()) for name in ("mean_um", "median_um", "p5_um", "p95_um", "share_within")),
        ("ratio_to_random", pa.float64()),
    ]
)


def class_densities(dataset: NucleiDataset) -> pa.Table:
    """Nuclei of each class on each finished slide: one row a slide and class of its model, also where there is none.

    Returns:
        slide_id, project, class_name, n_nuclei, tissue_mm2, per_mm2 (of nuclei in tissue), share (0..1, of the slide's
        nuclei), mean_score.

    Raises:
        DatasetError: there is no slides table, so that the tissue's area is unknown.
    """
    # A class that a slide's model does not know is not 0 there: nobody looked for it.
    pairs = [(slide_id, name) for slide_id in _listed_slides(dataset) for name in _classes_of(dataset, slide_id)]
    slides, names = [slide_id for slide_id, _ in pairs], [name for _, name in pairs]
    with dataset.duckdb() as database:
        return database.sql(_DENSITIES, params=[slides, names, list(dataset.class_names)]).to_arrow_table()


def cohort_summary(dataset: NucleiDataset) -> pa.Table:
    """One row a finished slide: nuclei, tissue, density, score, and of each class `n_`, `share_` and `per_mm2_<class>`.

    Those of a class that a slide's model does not know are null.

    Raises:
        DatasetError: there is no slides table.
    """
    rows: dict[str, dict[str, Any]] = {}
    for one in class_densities(dataset).to_pylist():
        first = {"slide_id": one["slide_id"], "project": one["project"], "n_nuclei": 0, "tissue_mm2": one["tissue_mm2"]}
        row = rows.setdefault(one["slide_id"], {**first, "per_mm2": 0.0, "mean_score": 0.0})
        name, count = one["class_name"], one["n_nuclei"]
        row |= {f"n_{name}": count, f"share_{name}": one["share"], f"per_mm2_{name}": one["per_mm2"]}
        row["n_nuclei"] += count
        row["per_mm2"] = None if one["per_mm2"] is None else row["per_mm2"] + one["per_mm2"]
        row["mean_score"] += count * (one["mean_score"] or 0.0)
    for row in rows.values():
        row["mean_score"] = row["mean_score"] / row["n_nuclei"] if row["n_nuclei"] else None
    columns = _columns_of_classes(dataset.class_names, "n", "share", "per_mm2")
    return pa.Table.from_pylist(list(rows.values()), schema=pa.schema([*_SLIDE, *columns]))


def pooled_density(rows: Sequence[Mapping[str, Any]], class_name: str) -> float | None:
    """Nuclei of a class per mm² of tissue over all slides whose model knows it; None where there is no such tissue.

    Args:
        rows: of `cohort_summary`.
        class_name: the class.
    """
    known = [row for row in rows if row[f"n_{class_name}"] is not None]
    mm2 = sum(row["tissue_mm2"] or 0.0 for row in known)
    inside = sum((row[f"per_mm2_{class_name}"] or 0.0) * (row["tissue_mm2"] or 0.0) for row in known)
    return inside / mm2 if mm2 else None


def counts_in_regions(
    dataset: NucleiDataset, slide_id: str, regions: Path, *, origin_level0: tuple[float, float] | None = None
) -> pa.Table:
    """Nuclei of each class inside each annotated region of a GeoJSON file, such as QuPath exports.

    Args:
        dataset: the nuclei.
        slide_id: the slide that the regions are drawn on.
        regions: GeoJSON in px of the image as QuPath shows it.
        origin_level0: where that image's corner lies; see `read_regions`.

    Returns:
        One row a region: region (number from 0), name, classification, area_mm2, n_nuclei, and `n_<class>` and
        `per_mm2_<class>`. A nucleus in two regions counts in both.

    Raises:
        DatasetError: no such slide, or a file that is not GeoJSON.
    """
    part = dataset.part(slide_id)
    mm2_per_px = part.slide_mpp[0] * part.slide_mpp[1] / 1e6
    rows = []
    for number, region in enumerate(read_regions(regions, part.provenance, origin_level0=origin_level0)):
        found = dataset.within(slide_id, region.area_level0, frame="level0", columns=["class_id"])
        class_ids, mm2 = found["class_id"].to_numpy(), region.area_level0.area * mm2_per_px
        row = {"region": number, "name": region.name, "classification": region.classification, "area_mm2": mm2}
        row["n_nuclei"] = len(class_ids)
        for class_id, name in enumerate(part.class_names):
            count = int((class_ids == class_id).sum())
            row |= {f"n_{name}": count, f"per_mm2_{name}": count / mm2}
        rows.append(row)
    columns = _columns_of_classes(part.class_names, "n", "per_mm2")
    return pa.Table.from_pylist(rows, schema=pa.schema([*_REGION, *columns]))


def nearest_distances(dataset: NucleiDataset, slide_id: str, *, of: str, to: str) -> NDArray[np.float64]:
    """From each nucleus of a class the distance to the nearest of another, or to the nearest other one of its own.

    Args:
        dataset: the nuclei.
        slide_id: the slide.
        of: the class whose nuclei are gone through.
        to: the class that is looked for.

    Returns:
        (N,) float64, µm, in the order of the curve; infinite where there is no nucleus to find.

    Raises:
        DatasetError: no such slide or class.
    """
    positions = _positions_um(dataset, slide_id, (of, to))
    return _distances(positions[of], positions[to], same=of == to)


def neighbour_statistics(
    dataset: NucleiDataset, slide_id: str, *, within_um: float = 20.0, class_names: Sequence[str] = ()
) -> pa.Table:
    """How near classes lie to one another: one row an ordered pair of classes that both have nuclei.

    Returns:
        of, to, n_of, mean_um, median_um, p5_um, p95_um (distance to the nearest), share_within (of those with one
        within `within_um`), and ratio_to_random: the mean over that of as many points strewn over the slide's tissue
        at random; below 1 they seek one another, above 1 they keep apart; null where the tissue's area is unknown.

    Source: ratio_to_random is R of Clark and Evans 1954, https://doi.org/10.2307/1931034

    Raises:
        DatasetError: no such slide or class.
    """
    names = tuple(class_names) or dataset.part(slide_id).class_names
    positions = _positions_um(dataset, slide_id, names)
    area_um2 = 1e6 * (_tissue_mm2(dataset, slide_id) or np.nan)
    rows = []
    for of in names:
        for to in names:
            distances = _distances(positions[of], positions[to], same=of == to)
            if not len(distances) or not np.isfinite(distances).all():
                continue
            at_random = 0.5 / np.sqrt(len(positions[to]) / area_um2)
            p5, median, p95 = np.percentile(distances, [5, 50, 95]).tolist()
            row = {"of": of, "to": to, "n_of": len(distances), "mean_um": float(distances.mean()), "median_um": median}
            row |= {"p5_um": p5, "p95_um": p95, "share_within": float((distances <= within_um).mean())}
            ratio = float(distances.mean() / at_random)
            rows.append({**row, "ratio_to_random": ratio if np.isfinite(ratio) else None})
    return pa.Table.from_pylist(rows, schema=_NEIGHBOURS)


def _columns_of_classes(class_names: Sequence[str], *prefixes: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{prefix}_{name}", _OF_CLASS[prefix]) for name in class_names for prefix in prefixes]


def _distances(of_um: NDArray[np.float64], to_um: NDArray[np.float64], *, same: bool) -> NDArray[np.float64]:
    if len(to_um) <= same:  # nobody there, or only itself
        return np.full(len(of_um), np.inf)
    found, _ = cKDTree(to_um).query(of_um, k=[2 if same else 1])
    return np.asarray(found[:, 0], np.float64)


def _positions_um(dataset: NucleiDataset, slide_id: str, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """(N, 2) µm of each class."""
    known = dataset.part(slide_id).class_names
    if unknown := [name for name in names if name not in known]:
        raise DatasetError(f"class {unknown[0]!r}: slide {slide_id} has {', '.join(known)}")
    columns = ["x_um", "y_um", "class_id"]
    table = pa.concat_tables([dataset.nothing(slide_id, columns), *dataset.tables(slide_id, columns)])
    xy = np.stack([table["x_um"].to_numpy(), table["y_um"].to_numpy()], axis=1).astype(np.float64)
    class_ids = table["class_id"].to_numpy()
    return {name: xy[class_ids == known.index(name)] for name in names}


def _listed_slides(dataset: NucleiDataset) -> list[str]:
    if (slides := dataset.slides()) is None:
        raise DatasetError(f"{dataset.root}: no slides.parquet beside it; densities need its tissue_mm2")
    return [str(slide_id) for slide_id in slides["slide_id"].to_pylist()]


def _classes_of(dataset: NucleiDataset, slide_id: str) -> tuple[str, ...]:
    """Those of its model; of a slide that has no part those of all."""
    return dataset.part(slide_id).class_names if slide_id in dataset.slide_ids else dataset.class_names


def _tissue_mm2(dataset: NucleiDataset, slide_id: str) -> float | None:
    slides = dataset.slides()
    rows = [] if slides is None else slides.select(["slide_id", "tissue_mm2"]).to_pylist()
    return next((row["tissue_mm2"] for row in rows if row["slide_id"] == slide_id), None)
