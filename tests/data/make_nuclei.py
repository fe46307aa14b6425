"""Nuclei datasets with known content: seeded points of three classes, written as inference writes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_core.nuclei_dataset import NucleiHeader, NucleusPoints, nuclei_table, part_path, write_nuclei
from muse_core.schemas import SLIDES

CLASSES = ("lymphocyte", "tumour_epithelial", "stromal")
MPP = (0.25, 0.26)


def header(slide_id: str = "S1", project: str = "LAB", **changes: object) -> NucleiHeader:
    values = {
        "slide_id": slide_id,
        "project": project,
        "slide_mpp": MPP,
        "class_names": CLASSES,
        "provenance": {"model_id": "abc"},
    }
    return NucleiHeader(**(values | changes))


def points(n: int, *, seed: int = 0, side_px: float = 8000.0, n_classes: int = 3, embedding: int = 0) -> NucleusPoints:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(n_classes), n).astype(np.float32)
    return NucleusPoints(
        xy_level0=rng.uniform(0, side_px, (n, 2)),
        class_ids=chances.argmax(axis=1),
        score=rng.uniform(0.5, 1, n).astype(np.float32),
        probabilities=chances,
        in_tissue=rng.random(n) < 0.9,
        embedding=rng.normal(size=(n, embedding)).astype(np.float16) if embedding else None,
    )


def pieces(whole: NucleusPoints, size: int) -> list[NucleusPoints]:
    """The same points, some at a time."""
    starts = range(0, len(whole.xy_level0), size)
    values = {name: value for name, value in vars(whole).items() if value is not None}
    return [NucleusPoints(**{name: value[i : i + size] for name, value in values.items()}) for i in starts]


def write_slide(out: Path, n: int, slide_id: str = "S1", project: str = "LAB", **changes: object) -> NucleusPoints:
    """A slide of n nuclei in the dataset, and its points."""
    about = header(slide_id, project, **changes)
    whole = points(n, seed=len(slide_id) + n, n_classes=len(about.class_names), embedding=about.embedding_size)
    write_nuclei(part_path(out, about), [nuclei_table(about, whole)], about)
    return whole


def write_slides_table(out: Path, tissue_mm2: dict[str, float], **columns: object) -> None:
    """The slides table of finished slides with that much tissue each."""
    rows = [
        {"slide_id": name, "project": "LAB", "status": "done", "tissue_mm2": mm2, **columns}
        for name, mm2 in tissue_mm2.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SLIDES), out / "slides.parquet")
