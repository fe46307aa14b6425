"""What is exported has channels of one mean and one width over nuclei, and says the same but for that."""

import pytest
import torch

from muse_core.models.backbone_file import backbone_of, read_backbone_file
from muse_core.pretrain.standardise import _at_nuclei, with_standard_map
from muse_core.pretrain.trainer import pretrain
from muse_core.roi_dataset.dataset import RoiDataset
from tests.pretrain.tiny_runs import tiny


def features(backbone, dataset):
    backbone.eval()
    with torch.no_grad():
        return torch.cat([_at_nuclei(backbone, dataset.read(index), 0.25) for index in range(len(dataset))])


def exported(out):
    return backbone_of(read_backbone_file(out / "muse-backbone.safetensors"))


@pytest.mark.slow
def test_the_export_of_a_finished_run_is_standardised_and_its_checkpoint_is_not(rois, tmp_path):
    dataset = RoiDataset(rois)
    plain = pretrain(rois, tmp_path / "plain", settings=tiny("steps=2"))
    given = pretrain(rois, tmp_path / "given", settings=tiny("steps=2", "standardised_at_mpp=0.25"))
    assert plain.step == given.step == 2
    before, after = (features(exported(tmp_path / name), dataset) for name in ("plain", "given"))
    assert len(after) > 20
    torch.testing.assert_close(after.mean(0), torch.zeros(after.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.std(0), torch.ones(after.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(after, (before - before.mean(0)) / before.std(0), atol=1e-3, rtol=1e-3)


def test_a_run_that_was_stopped_exports_its_map_as_it_is(rois, tmp_path):
    settings = tiny("steps=4", "standardised_at_mpp=0.25")
    pretrain(rois, tmp_path, settings=settings, should_stop=lambda: True)
    assert abs(features(exported(tmp_path), RoiDataset(rois)).std(0) - 1).max() > 0.01


def test_nothing_to_standardise(rois):
    from muse_core.models.backbone import BackboneSettings, build_backbone

    bare = build_backbone(BackboneSettings(preset="test_efficientnet", imagenet=False, decoder=False))
    copied = with_standard_map(bare, RoiDataset(rois), mpp=0.25)
    for name, tensor in bare.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], tensor)
