"""NDC checkpoints and the model around them; weights are random where answers need not be right."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from muse_core.detector.calibration import Calibration
from muse_core.errors import ConfigError, DatasetError
from muse_core.models.backbone import BackboneSettings
from muse_core.models.ndc_readout import nuclei_by_heat
from muse_core.models.shipped import NUCLEUS_DETECTOR
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint, save_checkpoint
from muse_core.ndc.head import NdcHead
from muse_core.ndc.model import NdcModel
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import draw_patch

BACKBONE = BackboneSettings(preset="test_efficientnet")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_random_ndc(tmp_path_factory.mktemp("ndc") / "a.safetensors")


@pytest.fixture(scope="module")
def image():
    return draw_patch(128, 10, 0).image[None]


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    head = NdcHead(("a", "b"), 8, 16, 3, 24, 2.5, "proposals", Calibration(0.4, 2.0))
    net = build_net(BACKBONE, head).eval()
    save_checkpoint(NdcCheckpoint(net, BACKBONE, head, {"init": "x"}), tmp_path / "a.safetensors")
    back = load_checkpoint(tmp_path / "a.safetensors")
    assert (back.head, back.backbone, back.notes) == (head, BACKBONE, {"init": "x"})
    for name, tensor in net.state_dict().items():
        exact = tensor.ndim < 2 or name.endswith("num_batches_tracked")
        assert torch.allclose(back.net.state_dict()[name].float(), tensor.float(), rtol=0 if exact else 1e-3, atol=1e-6)
    assert not list(tmp_path.glob("*.tmp*"))


def _other_format(path):
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "something"})


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def _lacks_a_tensor(path):
    tensors, about = load_file(path), _metadata(path)
    tensors.pop("h_type.4.bias")
    save_file(tensors, path, metadata=about)


def _of_another_version(path):
    save_file(load_file(path), path, metadata=_metadata(path) | {"head": '{"class_names": ["a"], "unheard": 1}'})


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b"not weights"), "cannot be read"),
        (_cut_short, "cannot be read"),
        (_other_format, "format 'something' found, 'muse-ndc-2' needed; give a file of `muse finetune`"),
        (lambda path: shutil.copy(NUCLEUS_DETECTOR, path), "format 'muse-nucleus-detector"),
        (_lacks_a_tensor, r"tensors differ from this version's network: \['h_type\.4\.bias'\]"),
        (_of_another_version, "of another version"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_line(path, tmp_path, spoil, said):
    bad = tmp_path / "bad.safetensors"
    shutil.copy(path, bad)
    spoil(bad)
    with pytest.raises(ConfigError, match=said) as caught:
        load_checkpoint(bad)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nuclei_are_apart_inside_and_the_surest_come_first(path):
    model = NdcModel(path, embeddings=True)
    (found,) = model.find(draw_patch(200, 10, 0).image[None, :150, :170])  # sides that are no multiples of anything
    assert len(found.xy) > 5
    assert (found.xy >= 0).all()
    assert (found.xy < (170, 150)).all()
    assert (np.diff(found.score) <= 0).all()
    distance = np.linalg.norm(found.xy[:, None] - found.xy[None], axis=2)
    assert distance[~np.eye(len(distance), dtype=bool)].min() >= 3.0 / 0.5 - 1e-3
    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-3)
    assert found.embedding.shape == (len(found.xy), model._net.backbone.map_channels)


def test_a_least_score_keeps_the_surest_and_changes_no_other(path, image):
    (everything,) = NdcModel(path).find(image)
    middle = float(np.median(everything.score))
    (some,) = NdcModel(path, min_score=middle).find(image)
    assert np.array_equal(some.xy, everything.xy[: len(some.xy)])
    assert 0 < len(some.xy) < len(everything.xy)


@pytest.mark.parametrize(
    "images", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)]
)
def test_images_of_another_kind_are_refused(path, images):
    with pytest.raises(DatasetError, match="uint8 RGB"):
        NdcModel(path).find(images)


def test_a_score_that_is_none(path):
    with pytest.raises(ConfigError, match=r"min_score 1\.5"):
        NdcModel(path, min_score=1.5)


def test_heat_s_tops_and_their_classes_are_read_where_they_lie():
    dense = torch.full((1, 3, 32, 48), -6.0)
    rows, columns = torch.meshgrid(torch.arange(32) * 2 + 1.0, torch.arange(48) * 2 + 1.0, indexing="ij")
    for (x, y), class_id in (((21.0, 31.0), 0), ((61.4, 18.8), 1)):
        near = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
        dense[0, -1] = torch.maximum(dense[0, -1], 12 * near - 6)
        dense[0, class_id] += 4 * near
    read = nuclei_by_heat(dense[0].numpy(), (90, 62), min_distance_px=6, least_chance=0.3)
    order = np.argsort(read.xy[:, 0])
    assert read.xy[order] == pytest.approx(np.array([[21.0, 31.0], [61.4, 18.8]]), abs=0.15)
    assert read.probabilities.argmax(1)[order].tolist() == [0, 1]
    outside = nuclei_by_heat(dense[0].numpy(), (50, 62), min_distance_px=6, least_chance=0.3)
    assert len(outside.xy) == 1


def test_a_checkpoint_may_be_read_by_its_proposals(path, tmp_path, image):
    checkpoint = load_checkpoint(path)
    other = tmp_path / "proposals.safetensors"
    save_checkpoint(replace(checkpoint, head=replace(checkpoint.head, readout="proposals")), other)
    (by_heat,), (by_proposals,) = NdcModel(path).find(image), NdcModel(other).find(image)
    assert len(by_heat.xy) > 0
    assert len(by_proposals.xy) > 0
    assert not np.array_equal(by_heat.xy[:5], by_proposals.xy[:5])


def test_no_nucleus_lies_on_green_ink(image):
    model = NdcModel()
    (before,) = model.find(image)
    inked = image.copy()
    inked[:, :, 64:] = inked[:, :, 64:] // 4 + np.array([0, 150, 20], np.uint8)  # nuclei show through
    (after,) = model.find(inked)
    assert (before.xy[:, 0] > 68).any()
    assert not (after.xy[:, 0] > 68).any()
