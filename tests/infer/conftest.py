"""Drawn slides, and one of them inferred; once a session, for nobody changes them."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.make_slides import Drawing, draw_aperio, tissue_image
from tests.infer.cohort_runs import infer


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A slide of 0.6 x 0.5 mm at 0.25 µm/px with drawn nuclei, and their level-0 places."""
    image, true = tissue_image(2400, 2000, mpp=0.25, seed=3)
    return draw_aperio(tmp_path_factory.mktemp("small") / "small.svs", image, Drawing(tile_px=240)), true


@pytest.fixture(scope="session")
def inferred(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("inferred") / "out"
    infer(small[0], out, "window_px=512", "group_tiles=2")
    return out


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A slide of 0.2 x 0.2 mm."""
    image, _ = tissue_image(900, 800, mpp=0.25, seed=4)
    return draw_aperio(tmp_path_factory.mktemp("tiny") / "tiny.svs", image, Drawing(factors=(1, 4)))
