"""Where fine-tuning starts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from muse_core.errors import ConfigError
from muse_core.models.backbone import BackboneSettings, build_backbone, standardised
from muse_core.models.backbone_file import backbone_of, read_backbone_file, save_backbone
from muse_core.models.feature_sampling import sample_at
from muse_core.ndc.checkpoint import NdcCheckpoint, build_net, load_checkpoint, save_checkpoint
from muse_core.ndc.head import NdcHead
from muse_core.ndc.settings import ModelSettings
from muse_core.ndc.start import start_from
from tests.data.make_ndc import write_random_ndc
from tests.data.make_patches import CLASS_NAMES, draw_patch


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_random_ndc(tmp_path_factory.mktemp("start") / "a.safetensors")


def _answers(net):
    image = torch.from_numpy(draw_patch(64, 3, 0).image[None]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return net.eval()(standardised(image))


def test_the_same_classes_go_on_where_the_checkpoint_was(path):
    start = start_from(str(path), CLASS_NAMES, ModelSettings())
    theirs, ours = _answers(load_checkpoint(path).net), _answers(start.net)
    assert torch.equal(theirs.logits, ours.logits)
    assert torch.equal(theirs.xy, ours.xy)
    assert torch.equal(theirs.dense, ours.dense)


def test_other_classes_keep_what_is_a_nucleus_and_where(path):
    start = start_from(str(path), ("mast cell", "plasma cell"), ModelSettings())
    theirs, ours = _answers(load_checkpoint(path).net), _answers(start.net)
    assert torch.equal(theirs.xy, ours.xy)
    assert torch.allclose(theirs.logits[..., -1], ours.logits[..., -1], atol=1e-5)
    assert torch.allclose(theirs.logits[..., :-1].mean(-1), ours.logits[..., 0], atol=1e-5)
    assert torch.allclose(ours.logits[..., 0], ours.logits[..., 1])  # no class is preferred
    assert torch.allclose(theirs.dense[:, -1], ours.dense[:, -1], atol=1e-5)


def test_from_nothing_no_class_is_preferred():
    start = start_from("none", ("a", "b"), ModelSettings(hidden=8))
    logits = _answers(start.net).logits
    assert logits.shape[-1] == 3
    assert float(logits.abs().max()) < 1
    assert np.isfinite(logits.numpy()).all()


def test_a_file_that_is_missing_or_no_start(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--init nowhere\.safetensors: no such file; give a checkpoint, imagenet or none"
    ):
        start_from("nowhere.safetensors", ("a",), ModelSettings())
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        start_from(str(tmp_path / "bad.safetensors"), ("a",), ModelSettings())


def test_a_backbone_of_aligned_corners_gives_maps_that_lie_exactly_over_the_image(tmp_path):
    settings = BackboneSettings(preset="test_efficientnet", geometry="official")
    path = tmp_path / "official.safetensors"
    save_backbone(build_backbone(settings), settings, path, notes={})
    start = start_from(str(path), ("a",), ModelSettings(hidden=8))
    assert start.backbone.geometry == "exact"
    assert start.net.backbone.sampling == "exact"
    found = read_backbone_file(path)
    official, exact = (
        backbone_of(replace(found, settings=settings.model_copy(update={"geometry": geometry})))
        for geometry in ("official", "exact")
    )
    image = torch.from_numpy(draw_patch(64, 3, 0).image[None]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours, theirs, other = (
            net(standardised(image)).map for net in (start.net.backbone.eval(), exact.eval(), official.eval())
        )
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, other, atol=1e-3)


def test_proposals_are_read_in_the_geometry_that_a_backbone_was_trained_in(tmp_path, caplog):
    settings = BackboneSettings(preset="test_efficientnet", geometry="official")
    path = tmp_path / "official.safetensors"
    save_backbone(build_backbone(settings), settings, path, notes={})
    start = start_from(str(path), ("a",), ModelSettings(hidden=8, spacing_px=8), own_geometry=True)
    assert start.backbone.geometry == start.net.backbone.sampling == "official"
    assert not caplog.records
    net = start.net.eval()
    image = standardised(torch.from_numpy(draw_patch(64, 3, 0).image[None]).permute(0, 3, 1, 2))
    with torch.inference_mode():
        feature_map = net.backbone(image).map
        said = net.proposals(feature_map, (64, 64))
        rows = torch.zeros(len(said.grid_xy), dtype=torch.int64)
        read = sample_at(feature_map, said.grid_xy, rows, side_px=(64, 64), mode="official")  # (P, D)
        expected = net.h_type(read.T.unflatten(1, (8, 8))[None])
    torch.testing.assert_close(said.logits[0], expected[0].flatten(1).T, rtol=1e-4, atol=1e-4)
    start_from(str(path), ("a",), ModelSettings(hidden=8))
    assert "keeps the geometry of the weights" in caplog.text


def test_a_backbone_without_decoder_is_refused(tmp_path):
    settings = BackboneSettings(preset="test_efficientnet", decoder=False)
    path = tmp_path / "bare.safetensors"
    save_backbone(build_backbone(settings), settings, path, notes={})
    with pytest.raises(ConfigError, match=r"bare\.safetensors: a backbone without decoder, .* 32 px; 4 px needed"):
        start_from(str(path), ("a",), ModelSettings(hidden=8))


def _as_proposals(path, to):
    checkpoint = load_checkpoint(path)
    save_checkpoint(replace(checkpoint, head=replace(checkpoint.head, readout="proposals")), to)
    return str(to)


def test_a_checkpoint_read_by_proposals_is_no_start_for_a_dense_head(path, tmp_path):
    init = _as_proposals(path, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match=r"p\.safetensors: made to be read by proposals.* --recipe paper, or loss\."):
        start_from(init, CLASS_NAMES, ModelSettings())
    start = start_from(init, CLASS_NAMES, ModelSettings(), own_geometry=True)
    assert torch.equal(_answers(start.net).logits, _answers(load_checkpoint(path).net).logits)


def test_a_checkpoints_vit_drops_paths_as_was_asked(tmp_path):
    backbone, head = BackboneSettings(preset="test_vit", image_px=64), NdcHead(("a",), hidden=8)
    path = tmp_path / "vit.safetensors"
    save_checkpoint(NdcCheckpoint(build_net(backbone, head), backbone, head, {}), path)
    kinds = {}
    for share in (0.0, 0.2):
        start = start_from(str(path), ("a",), ModelSettings(hidden=8), drop_path=share)
        kinds[share] = {type(one).__name__ for one in start.net.modules()}
        assert start.backbone.drop_path == 0
        assert torch.equal(_answers(start.net).logits, _answers(load_checkpoint(path).net).logits)
    assert ["DropPath" in kinds[share] for share in (0.0, 0.2)] == [False, True]
