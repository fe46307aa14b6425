"""A slide of drawn nuclei, inferred as it were: dataset, slides table, tissue."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from muse_core.machine.files import safe_name
from muse_core.nuclei_dataset import NucleusPoints, nuclei_table, part_path, write_nuclei
from muse_core.schemas import INFERRED_SLIDES
from tests.data.make_nuclei import CLASSES, header

SIZE = (5600, 4800)


def write_tissue_file(out: Path, slide_id: str, polygon: shapely.Polygon) -> None:
    path = out / "tissue" / f"{safe_name(slide_id)}.geojson"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "Feature", "geometry": shapely.geometry.mapping(polygon), "properties": {}}))


def slide_row(slide_id: str, **changes: object) -> dict[str, object]:
    row = {
        "slide_id": slide_id,
        "case_id": "patient 1",
        "project": "LAB",
        "status": "done",
        "reader": "cucim",
        "mpp_x": 0.25,
        "mpp_y": 0.25,
        "mpp_source": "openslide.mpp-x",
        "width_level0": SIZE[0],
        "height_level0": SIZE[1],
        "tissue_mm2": 1.2,
        "n_tiles": 12,
        "n_failed_tiles": 0,
    }
    return row | changes


def write_table(out: Path, rows: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=INFERRED_SLIDES), out / "slides.parquet")


@pytest.fixture(scope="session")
def inferred(tmp_path_factory, drawn) -> Path:
    """An output folder with the drawn slide as S1: class by side, surer towards the right."""
    out = tmp_path_factory.mktemp("inferred")
    slide, xy = drawn
    class_ids = np.digitize(xy[:, 0], (2400, 3400))
    sure = (0.5 + 0.45 * xy[:, 0] / SIZE[0]).astype(np.float32)
    chances = np.repeat(((1 - sure) / 2)[:, None], 3, axis=1)
    chances[np.arange(len(xy)), class_ids] = sure
    about = header(slide_mpp=(0.25, 0.25), provenance={"model_id": "abc", "mpp_source": "openslide.mpp-x"})
    points = NucleusPoints(xy, class_ids, sure, chances.astype(np.float32), np.ones(len(xy), bool))
    write_nuclei(part_path(out, about), [nuclei_table(about, points)], about)
    write_tissue_file(out, "S1", shapely.affinity.scale(shapely.Point(2800, 2400).buffer(1), 2240, 2016))
    write_table(out, [slide_row("S1", uri=str(slide))])
    assert about.class_names == CLASSES
    return out
