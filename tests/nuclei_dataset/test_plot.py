"""Pictures for papers: every nucleus of the area in its class's colour, on the slide's pixels, with a scale bar."""

import numpy as np
import pytest

from muse_core.errors import ConfigError
from muse_core.geometry import Box
from muse_core.nuclei_dataset import NucleiDataset, class_colours
from tests.data.make_nuclei import CLASSES
from tests.viewer.conftest import write_run

AREA = Box(500, 500, 400, 300)


@pytest.fixture
def dataset(tmp_path, drawn):
    write_run(tmp_path, *drawn)
    return NucleiDataset(tmp_path)


def test_every_nucleus_of_the_area_is_drawn_in_its_colour(dataset, drawn, tmp_path):
    pytest.importorskip("matplotlib")
    figure = dataset.plot("S1", AREA, slide=drawn[0])
    (axes,) = figure.axes
    assert sum(len(one.get_offsets()) for one in axes.collections) == len(dataset.within("S1", AREA))
    rings = [tuple(np.round(255 * one.get_edgecolor()[0][:3]).astype(int)) for one in axes.collections]
    wanted = [tuple(bytes.fromhex(colour[1:])) for colour in class_colours(CLASSES).values()]
    assert rings == wanted
    assert [text.get_text() for text in axes.texts] == ["50 µm"]
    (image,) = axes.images
    assert np.asarray(image.get_array()).shape == (1200, 1600, 3), "as fine as the slide"
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_an_empty_area_is_one_line(dataset):
    with pytest.raises(ConfigError, match="area is empty"):
        dataset.plot("S1", Box(0, 0, 0, 10))
