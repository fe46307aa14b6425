import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from muse_core.detector.learned import LearnedDetector
from muse_core.detector.model import DetectorModel
from muse_core.detector.weights_file import DetectorWeights as TrainedDetector
from muse_core.detector.weights_file import save_model
from muse_core.errors import ConfigError
from muse_core.infer.model import load_nucleus_model, shipped_weights
from muse_core.machine.device import best_dtype
from muse_core.models.detector import NucleusNet
from muse_core.models.shipped import MUSE_NANO_NDC, NUCLEUS_DETECTOR
from muse_core.models.tensor_file import hash_of
from tests.data.make_patches import draw_patch


@pytest.fixture(scope="module")
def model() -> DetectorModel:
    return DetectorModel(NUCLEUS_DETECTOR, device="cpu")


@pytest.fixture(scope="module")
def patch():
    return draw_patch(320, 60, seed=5)


def test_it_finds_what_the_detector_finds(model, patch):
    (found,) = model.find(patch.image[np.newaxis])
    expected = LearnedDetector()(patch.image, 0.5)
    assert len(found.xy) == len(expected) > 40
    np.testing.assert_allclose(found.xy, expected[:, :2], atol=0.1)
    np.testing.assert_allclose(found.score, expected[:, 2], atol=0.02)


def test_probabilities_sum_to_one_over_named_classes(model, patch):
    (found,) = model.find(patch.image[np.newaxis])
    assert found.probabilities.shape == (len(found.xy), len(model.class_names))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-3)
    assert found.embedding is None


@pytest.mark.parametrize("side", [320, 317, 301])
def test_any_size_is_taken_and_nothing_lies_outside(model, patch, side):
    (found,) = model.find(patch.image[np.newaxis, :side, : side - 10])
    assert len(found.xy) > 30
    assert (found.xy < (side - 10, side)).all()


def test_images_of_a_batch_do_not_meet(model, patch):
    both = model.find(np.stack([patch.image, patch.image[::-1]]))
    alone = [model.find(one[np.newaxis])[0] for one in (patch.image, patch.image[::-1])]
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_allclose(one.xy, other.xy, atol=0.05)


def test_tensors_are_taken_as_arrays_are(model, patch):
    (one,), (other,) = model.find(patch.image[np.newaxis]), model.find(torch.from_numpy(patch.image[np.newaxis]))
    np.testing.assert_array_equal(one.xy, other.xy)


def test_a_higher_bar_only_leaves_out(patch, model):
    (lax,) = model.find(patch.image[np.newaxis])
    (strict,) = DetectorModel(NUCLEUS_DETECTOR, device="cpu", min_score=0.8).find(patch.image[np.newaxis])
    np.testing.assert_array_equal(strict.xy, lax.xy[lax.score >= 0.8])


def test_what_ships_loads_and_names_its_weights():
    model = load_nucleus_model(None, device="cpu")
    assert model.class_names
    assert model.model_id == load_nucleus_model(shipped_weights(), device="cpu").model_id


def test_files_that_are_no_model_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_nucleus_model(tmp_path / "none.safetensors", device="cpu")
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, metadata={"format": "something-else"})
    with pytest.raises(ConfigError, match="something-else"):
        load_nucleus_model(other, device="cpu")
    with pytest.raises(ConfigError, match="no embeddings"):
        load_nucleus_model(NUCLEUS_DETECTOR, device="cpu", embeddings=True)


def test_classes_are_those_that_the_weights_name(tmp_path, patch):
    of_ocelot, unnamed = tmp_path / "ocelot.safetensors", tmp_path / "unnamed.safetensors"
    net = NucleusNet(n_classes=2).eval()
    save_model(TrainedDetector(net, class_names=("tumour", "other")), of_ocelot)
    save_model(TrainedDetector(net), unnamed)
    model = load_nucleus_model(of_ocelot, device="cpu", min_score=0.0)
    (found,) = model.find(patch.image[np.newaxis])
    assert model.class_names == ("tumour", "other")
    assert found.probabilities.shape[1] == 2
    with pytest.raises(ConfigError, match=r"unnamed\.safetensors: no names of its classes"):
        load_nucleus_model(unnamed, device="cpu")


@pytest.mark.parametrize("weights", [NUCLEUS_DETECTOR, MUSE_NANO_NDC])
def test_networks_run_in_the_arithmetic_that_the_processor_has(weights, patch, monkeypatch):
    best = load_nucleus_model(weights, device="cpu")
    for module in ("detector.network", "ndc.model"):
        monkeypatch.setattr(f"muse_core.{module}.best_dtype", lambda device: torch.float32)
    plain = load_nucleus_model(weights, device="cpu")
    net = plain._network._net if weights == NUCLEUS_DETECTOR else plain._net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    (one,), (other,) = (model.find(patch.image[np.newaxis]) for model in (best, plain))
    assert len(one.xy) == pytest.approx(len(other.xy), rel=0.05)


def test_bfloat16_only_where_the_processor_says_so(tmp_path):
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags\t\t: fpu avx2 avx512f\n")
    assert best_dtype("cpu", cpuinfo=flags) == torch.float32
    flags.write_text("flags\t\t: fpu avx2 avx512_bf16\n")
    assert best_dtype("cpu", cpuinfo=flags) == torch.bfloat16
    assert best_dtype("cpu", cpuinfo=tmp_path / "none") == torch.float32


def test_a_checkpoint_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.safetensors: cannot be read .*; give a file of muse finetune"):
        hash_of(tmp_path / "none.safetensors")
