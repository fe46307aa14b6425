"""Quantised weights are made by one command, and find what their checkpoint finds."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from muse_core.cli.app import app
from muse_core.cli.quantise import _evenly
from muse_core.errors import ConfigError, DatasetError
from muse_core.infer.model import load_nucleus_model, resolve_engine
from muse_core.infer.quantise import quantise
from muse_core.labels.datasets import LabelledData, Source
from muse_core.labels.regions import Region
from muse_core.models.quantised import quantised_for
from muse_core.models.shipped import MUSE_NANO_NDC
from tests.data.make_slides import tissue_image


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    image, _ = tissue_image(640, 480, mpp=0.5, seed=5)
    return [np.ascontiguousarray(image[y : y + 160, x : x + 160]) for y in (0, 160, 320) for x in (0, 160, 320)]


@pytest.mark.slow
def test_the_command_writes_weights_that_infer_takes(images, tmp_path):
    pytest.importorskip("nncf")
    checkpoint, folder = tmp_path / "ndc.safetensors", tmp_path / "images"
    checkpoint.write_bytes(MUSE_NANO_NDC.read_bytes())
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    arguments = ["quantise", "--checkpoint", checkpoint, "--images", folder, "--mpp", "0.5"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "ranges from 6 images" in done.output
    assert quantised_for(checkpoint) == tmp_path / "ndc.int8.safetensors"
    assert resolve_engine("openvino", checkpoint, device="cpu") == "openvino"
    exact = load_nucleus_model(checkpoint, device="cpu")
    quantised = load_nucleus_model(checkpoint, device="cpu", engine="openvino")
    batch = np.stack(images)
    found = [sum(len(one.xy) for one in model.find(batch)) for model in (exact, quantised)]
    assert found[0] > 20
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "give either --images DIR with --mpp, or the datasets of muse finetune"),
        (["--images", "images", "--datasets", "some.toml"], "give either --images DIR with --mpp, or the datasets"),
        (["--images", "images"], "--images images: its um/px is needed; give it by --mpp"),
    ],
)
def test_where_ranges_come_from_must_be_clear(given, told):
    with pytest.raises(ConfigError, match=told):
        app(["quantise", "--checkpoint", str(MUSE_NANO_NDC), *given], standalone_mode=False)


def test_a_large_dataset_gives_no_more_images_than_a_small_one():
    def source(name: str, n_images: int) -> Source:
        images = [np.full((8, 8, 3), number, np.uint8) for number in range(n_images)]
        nobody = (np.empty((0, 2)), np.empty(0, np.int64))
        regions = [Region(f"{name}{n}", name, image, 0.5, None, *nobody) for n, image in enumerate(images)]
        return Source(name, 1.0, tuple(regions), ())

    chosen = _evenly(LabelledData(("tumour",), (source("large", 200), source("small", 30))))
    assert [int(image[0, 0, 0]) for image in chosen] == [*range(0, 200, 5), *range(30)]


def test_too_few_images_are_told(images):
    with pytest.raises(DatasetError, match="3 images to quantise with; at least 4 needed"):
        quantise(MUSE_NANO_NDC, images[:3])
