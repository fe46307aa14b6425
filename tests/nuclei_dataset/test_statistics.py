"""Densities, regions and neighbours of a handful of nuclei counted by hand, and of many counted plainly."""

import json

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import cdist

from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import (
    NucleiDataset,
    NucleusPoints,
    class_densities,
    cohort_summary,
    counts_in_regions,
    nearest_distances,
    neighbour_statistics,
    nuclei_table,
    part_path,
    pooled_density,
    write_nuclei,
)
from tests.data.make_nuclei import CLASSES, MPP, header, write_slide, write_slides_table

LYMPHOCYTE, TUMOUR, STROMAL = CLASSES


def write_points(out, rows, **changes):
    """Nuclei given as (x µm, y µm, class id, in tissue)."""
    about = header(**changes)
    xy_um, class_ids = np.array([row[:2] for row in rows], float), np.array([row[2] for row in rows])
    whole = NucleusPoints(
        xy_level0=xy_um / MPP,
        class_ids=class_ids,
        score=np.linspace(0.5, 0.9, len(rows)).astype(np.float32),
        probabilities=np.eye(len(about.class_names), dtype=np.float32)[class_ids],
        in_tissue=np.array([row[3] for row in rows]),
    )
    write_nuclei(part_path(out, about), [nuclei_table(about, whole)], about)
    return NucleiDataset(out)


FIVE = [(10, 10, 0, True), (40, 50, 1, True), (10, 22, 0, True), (100, 10, 0, False), (46, 58, 1, True)]


def test_densities_count_nuclei_in_tissue_per_mm2_of_tissue(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    write_slides_table(tmp_path, {"S1": 0.5, "empty": 2.0})
    rows = {(row["slide_id"], row["class_name"]): row for row in class_densities(dataset).to_pylist()}
    assert len(rows) == 6
    assert rows["S1", LYMPHOCYTE]["n_nuclei"] == 3
    assert rows["S1", LYMPHOCYTE]["per_mm2"] == pytest.approx(2 / 0.5)  # one of the three lies outside
    assert rows["S1", LYMPHOCYTE]["share"] == pytest.approx(3 / 5)
    assert rows["S1", TUMOUR]["mean_score"] == pytest.approx((0.6 + 0.9) / 2)
    assert (rows["S1", STROMAL]["n_nuclei"], rows["S1", STROMAL]["per_mm2"]) == (0, 0)
    assert (rows["empty", TUMOUR]["per_mm2"], rows["empty", TUMOUR]["share"]) == (0, None)


def test_the_cohort_has_a_row_a_slide(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    write_slides_table(tmp_path, {"S1": 0.5, "empty": 2.0})
    first, second = cohort_summary(dataset).to_pylist()
    assert (first["slide_id"], first["n_nuclei"], first["per_mm2"]) == ("S1", 5, pytest.approx(8))
    assert first["mean_score"] == pytest.approx(0.7)
    assert (first[f"n_{TUMOUR}"], first[f"share_{TUMOUR}"]) == (2, pytest.approx(0.4))
    assert (second["n_nuclei"], second["per_mm2"], second["mean_score"]) == (0, 0, None)


def test_a_cohort_without_finished_slides_has_the_columns_of_one_with(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    write_slides_table(tmp_path, {"S1": 0.5})
    one = cohort_summary(dataset)
    write_slides_table(tmp_path, {"S1": 0.5}, status="failed")
    none = cohort_summary(dataset)
    assert (len(one), len(none)) == (1, 0)
    assert none.schema.equals(one.schema)
    assert none.schema.field(f"share_{TUMOUR}").type == pa.float64()


def test_densities_need_the_tissue(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    with pytest.raises(DatasetError, match=r"no slides\.parquet beside it; densities need its tissue_mm2"):
        class_densities(dataset)


def region(name, corners_px, **properties):
    geometry = {"type": "Polygon", "coordinates": [[*corners_px, corners_px[0]]]}
    return {"type": "Feature", "geometry": geometry, "properties": {"name": name, **properties}}


def square_px(x_um, y_um, side_um):
    corners = [(0, 0), (side_um, 0), (side_um, side_um), (0, side_um)]
    return [[(x_um + dx) / MPP[0], (y_um + dy) / MPP[1]] for dx, dy in corners]


def test_regions_hold_the_nuclei_in_them(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    path = tmp_path / "regions.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    features = [
        region("left", square_px(0, 0, 30), classification={"name": "Stroma", "color": [1, 2, 3]}),
        point,
        region("all", square_px(0, 0, 200), classification="Tumor"),
        region(None, square_px(500, 500, 10)),
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    left, whole, empty = counts_in_regions(dataset, "S1", path).to_pylist()
    assert (left["name"], left["classification"], left["n_nuclei"], left[f"n_{LYMPHOCYTE}"]) == ("left", "Stroma", 2, 2)
    assert left["area_mm2"] == pytest.approx(30 * 30 / 1e6)
    assert left[f"per_mm2_{LYMPHOCYTE}"] == pytest.approx(2 / (900 / 1e6))
    assert (whole["classification"], whole["n_nuclei"], whole[f"n_{TUMOUR}"]) == ("Tumor", 5, 2)
    assert (empty["name"], empty["n_nuclei"]) == (None, 0)


def test_regions_drawn_in_qupath_count_from_the_scanners_bounds(tmp_path):
    dataset = write_points(tmp_path, FIVE, provenance={"bounds_level0": [40.0, 20.0, 4000.0, 4000.0]})
    path = tmp_path / "regions.geojson"
    shown = [[x - 40.0, y - 20.0] for x, y in square_px(0, 0, 30)]
    path.write_text(json.dumps(region("left", shown)))
    assert counts_in_regions(dataset, "S1", path)["n_nuclei"].to_pylist() == [2]
    assert counts_in_regions(dataset, "S1", path, origin_level0=(400.0, 400.0))["n_nuclei"].to_pylist() == [0]


def test_no_regions_have_the_columns_of_some_named_or_not(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    path = tmp_path / "regions.geojson"

    def schema_of(*features):
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        table = counts_in_regions(dataset, "S1", path)
        assert len(table) == len(features)
        return table.schema

    named = schema_of(region("left", square_px(0, 0, 30), classification="Tumor"))
    assert schema_of().equals(named)
    assert schema_of(region(None, square_px(0, 0, 30))).equals(named)
    assert named.names[-2:] == [f"n_{STROMAL}", f"per_mm2_{STROMAL}"]


@pytest.mark.parametrize("text", ["{", '{"type": "Polygon", "coordinates": 3}', '[{"geometry": {"type": "Blob"}}]'])
def test_regions_that_are_none_are_named(tmp_path, text):
    dataset = write_points(tmp_path, FIVE)
    path = tmp_path / "regions.geojson"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"regions\.geojson: not "):
        counts_in_regions(dataset, "S1", path)
    with pytest.raises(DatasetError, match="cannot be read"):
        counts_in_regions(dataset, "S1", tmp_path / "nowhere.geojson")


def test_nearest_distances_by_hand(tmp_path):
    dataset = write_points(tmp_path, FIVE)
    assert sorted(nearest_distances(dataset, "S1", of=TUMOUR, to=TUMOUR)) == pytest.approx([10, 10], abs=0.02)
    assert sorted(nearest_distances(dataset, "S1", of=LYMPHOCYTE, to=LYMPHOCYTE))[:2] == pytest.approx(
        [12, 12], abs=0.02
    )
    assert np.isinf(nearest_distances(dataset, "S1", of=TUMOUR, to=STROMAL)).all()
    assert len(nearest_distances(dataset, "S1", of=STROMAL, to=TUMOUR)) == 0
    with pytest.raises(DatasetError, match="class 'plasma': slide S1 has lymphocyte"):
        nearest_distances(dataset, "S1", of="plasma", to=TUMOUR)


def test_neighbours_of_random_points_are_as_far_as_chance_has_it(tmp_path):
    whole = write_slide(tmp_path, 6000)
    dataset = NucleiDataset(tmp_path)
    assert neighbour_statistics(dataset, "S1")["ratio_to_random"].null_count == 9
    write_slides_table(tmp_path, {"S1": 8000 * 8000 * MPP[0] * MPP[1] / 1e6})
    rows = {(row["of"], row["to"]): row for row in neighbour_statistics(dataset, "S1", within_um=15).to_pylist()}
    xy = whole.xy_level0 * MPP
    some, other = xy[whole.class_ids == 0], xy[whole.class_ids == 2]
    nearest = cdist(some, other).min(axis=1)
    row = rows[LYMPHOCYTE, STROMAL]
    assert (row["n_of"], row["mean_um"]) == (len(some), pytest.approx(nearest.mean(), abs=0.01))
    assert row["median_um"] == pytest.approx(np.median(nearest), abs=0.01)
    assert row["share_within"] == pytest.approx((nearest <= 15).mean(), abs=0.002)
    assert len(rows) == 9
    for row in rows.values():
        assert row["ratio_to_random"] == pytest.approx(1, abs=0.05)


def test_a_slide_without_nuclei_has_no_neighbours(tmp_path):
    write_slide(tmp_path, 0)
    dataset = NucleiDataset(tmp_path)
    assert len(nearest_distances(dataset, "S1", of=TUMOUR, to=LYMPHOCYTE)) == 0
    table = neighbour_statistics(dataset, "S1")
    assert len(table) == 0
    assert table.schema.equals(neighbour_statistics(write_points(tmp_path / "five", FIVE), "S1").schema)


def test_a_class_that_a_slides_model_does_not_know_is_null_and_not_zero(tmp_path):
    write_points(tmp_path, FIVE)
    dataset = write_points(tmp_path, FIVE, slide_id="S2", class_names=(LYMPHOCYTE, "mitosis"))
    write_slides_table(tmp_path, {"S1": 0.5, "S2": 0.25})
    pairs = {(row["slide_id"], row["class_name"]) for row in class_densities(dataset).to_pylist()}
    assert pairs == {("S1", LYMPHOCYTE), ("S1", TUMOUR), ("S1", STROMAL), ("S2", LYMPHOCYTE), ("S2", "mitosis")}
    first, second = rows = cohort_summary(dataset).to_pylist()
    assert (first["n_mitosis"], first["per_mm2_mitosis"], first[f"n_{STROMAL}"]) == (None, None, 0)
    assert (second["n_mitosis"], second["per_mm2_mitosis"]) == (2, pytest.approx(2 / 0.25))
    assert second[f"per_mm2_{TUMOUR}"] is None
    assert pooled_density(rows, "mitosis") == pytest.approx(2 / 0.25), "the tissue of S1 was not searched for it"
    assert pooled_density(rows, LYMPHOCYTE) == pytest.approx(4 / 0.75)
