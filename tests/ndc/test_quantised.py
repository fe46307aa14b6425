import numpy as np
import pytest

from muse_core.errors import ConfigError, DatasetError
from muse_core.models.quantised import Quantised, quantised_path, read_quantised
from muse_core.models.shipped import MUSE_NANO_NDC
from muse_core.ndc.model import NdcModel
from muse_core.ndc.quantised import QuantisedNdcModel
from tests.data.make_slides import tissue_image


@pytest.fixture(scope="module")
def model() -> QuantisedNdcModel:
    return QuantisedNdcModel(read_quantised(quantised_path(MUSE_NANO_NDC)), threads=1, min_score=0.5)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    image, _ = tissue_image(480, 352, mpp=0.5, seed=1)
    return image


def test_it_finds_what_the_checkpoint_finds(model, tissue):
    (exact,) = NdcModel(min_score=0.5).find(tissue[np.newaxis])
    (found,) = model.find(tissue[np.newaxis])
    assert len(exact.xy) > 20
    assert len(found.xy) == pytest.approx(len(exact.xy), rel=0.06)
    distance = np.linalg.norm(exact.xy[:, None] - found.xy[None], axis=2).min(axis=1)
    assert np.median(distance) < 0.3
    assert (distance < 2).mean() > 0.92
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (found.xy < tissue.shape[1::-1]).all()
    assert (found.score >= 0.5 - 1e-3).all()


def test_it_says_the_same_of_itself_as_the_checkpoint(model):
    exact = NdcModel()
    for name in ("class_names", "mpp", "margin_um", "grid_um", "model_id", "embedding_size"):
        assert getattr(model, name) == getattr(exact, name), name


def test_images_of_another_kind_and_weights_of_another_network_are_refused(model):
    with pytest.raises(DatasetError, match="uint8 RGB"):
        model.find(np.zeros((1, 32, 32, 3), np.float32))
    other = Quantised(MUSE_NANO_NDC, "", "muse-nucleus-detector-1", {}, b"", np.empty(0, np.uint8))
    with pytest.raises(ConfigError, match=r"muse-ndc-2' needed; use --set engine=torch"):
        QuantisedNdcModel(other, threads=1)
