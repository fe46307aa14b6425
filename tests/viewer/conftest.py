"""A run to look at: the drawn slide with nuclei as inference writes them, and its lab folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from starlette.testclient import TestClient

from muse_core.nuclei_dataset import NucleusPoints, nuclei_table, part_path, write_nuclei
from muse_core.viewer import ViewedRun
from muse_core.viewer.app import make_app
from muse_core.viewer.job import TeachJob
from tests.data.make_nuclei import CLASSES, header
from tests.report.conftest import SIZE, slide_row, write_table, write_tissue_file

TOKEN = "a-token-of-tests"


def write_run(out: Path, slide: Path, xy: np.ndarray, *, embeddings: bool = False) -> None:
    """The drawn slide as S1: class by side, surer towards the right; S2 failed."""
    class_ids = np.digitize(xy[:, 0], (2400, 3400))
    sure = (0.4 + 0.55 * xy[:, 0] / SIZE[0]).astype(np.float32)
    chances = np.repeat(((1 - sure) / 2)[:, None], 3, axis=1)
    chances[np.arange(len(xy)), class_ids] = sure
    about = header(
        slide_mpp=(0.25, 0.25),
        provenance={"model_id": "abc", "mpp_source": "openslide.mpp-x", "checkpoint": "ours.safetensors"},
        embedding_size=4 if embeddings else 0,
    )
    vectors = np.stack([class_ids == 0, class_ids == 1, class_ids == 2, xy[:, 1] / SIZE[1]], axis=1)
    points = NucleusPoints(
        xy,
        class_ids,
        np.full(len(xy), 0.9, np.float32),
        chances.astype(np.float32),
        np.ones(len(xy), bool),
        vectors.astype(np.float16) if embeddings else None,
    )
    write_nuclei(part_path(out, about), [nuclei_table(about, points)], about)
    write_tissue_file(out, "S1", shapely.affinity.scale(shapely.Point(2800, 2400).buffer(1), 2240, 2016))
    failed = slide_row("S2", status="failed", reason="unreadable", message="S2.svs: no slide", uri="/nowhere/S2.svs")
    write_table(out, [slide_row("S1", uri=str(slide)), failed])
    assert about.class_names == CLASSES


@pytest.fixture(scope="session")
def written(drawn, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("viewed")
    write_run(out, *drawn)
    return out


@pytest.fixture
def out(written, tmp_path) -> Path:
    """A run of its own for each test."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def open_run(out) -> Callable[..., ViewedRun]:
    return lambda **options: ViewedRun(out, lab=out / "lab", **options)


@pytest.fixture
def client(open_run):
    run = open_run()
    with TestClient(make_app(run, TeachJob(run), token=TOKEN, who="somebody"), base_url="http://127.0.0.1:8000") as one:
        one.base_url = f"http://127.0.0.1:8000/{TOKEN}/"
        yield one
