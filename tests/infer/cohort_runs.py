"""Inference whole, as the tests of it run it, and what it wrote."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from muse_core.cohort.run import do_all
from muse_core.config import load_settings
from muse_core.infer import InferOptions, InferSettings, InferSummary, open_infer, read_inputs
from muse_core.models.shipped import NUCLEUS_DETECTOR

CLASSES = ("lymphocyte", "tumour_epithelial", "stromal")


def write_manifest(path: Path, *rows: str) -> Path:
    path.write_text("slide_id,case_id,project,uri,size,md5,mpp\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def infer(slides: Path, out: Path, *overrides: str, mpp: float | None = None, **options) -> InferSummary:
    settings = load_settings(InferSettings, None, overrides)
    manifest = read_inputs(slides, mpp)
    with open_infer(InferOptions(out=out, **({"checkpoint": NUCLEUS_DETECTOR} | options)), settings) as run:
        run.begin(manifest)
        return run.finish(manifest, list(do_all(run, manifest.rows, run.do_slide)))


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("nuclei/*/*/part-*.parquet"))


def nuclei(out: Path) -> list[dict]:
    return [row for part in parts(out) for row in pq.read_table(part, partitioning=None).to_pylist()]


def places(out: Path) -> np.ndarray:
    return np.array([(row["x_level0"], row["y_level0"]) for row in nuclei(out)])


def slide_rows(out: Path) -> dict[str, dict]:
    return {row["slide_id"]: row for row in pq.read_table(out / "slides.parquet").to_pylist()}
