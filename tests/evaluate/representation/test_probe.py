import json

import pytest
import torch

from muse_core.errors import ConfigError
from muse_core.evaluate.representation import EvaluationRequest, MapEncoder, evaluate_knn, read_features
from muse_core.evaluate.representation.probe import probe_for
from muse_core.models.backbone import BackboneSettings, build_backbone
from muse_core.pretrain.metrics import read_metrics
from muse_core.pretrain.trainer import pretrain
from muse_core.training.checkpoint import read_checkpoint
from tests.data.make_patches import write_brca
from tests.pretrain.tiny_runs import drawn_dataset, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brca")
    write_brca(root, train=3, val=2)
    return root


def probed(data, *more):
    return tiny("probe.dataset=brca-m2c", f"probe.data={data}", "probe.every=4", "probe.k=5", *more)


def test_it_scores_as_evaluate_knn_does_and_leaves_the_backbone_as_it_is(data):
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(preset="test_efficientnet"))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    found = probe_for(probed(data))(backbone)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    scored = read_features(MapEncoder(backbone).eval(), EvaluationRequest("brca-m2c", data))
    assert found == evaluate_knn(scored, ks=(5,))["accuracy"]


def test_a_run_tells_it_and_is_the_same_run(data, tmp_path):
    rois = drawn_dataset(tmp_path / "rois")
    settings = probed(data, "probe.tiles=2", "standardised_at_mpp=0.25")
    pretrain(rois, tmp_path / "probed", settings=settings, probe=probe_for(settings))
    pretrain(rois, tmp_path / "plain", settings=tiny("standardised_at_mpp=0.25"))
    rows = {row["step"]: row for row in read_metrics(tmp_path / "probed" / "metrics.jsonl")}
    assert {step for step, row in rows.items() if 0 <= row.get("probe_knn", -1) <= 100} == {4, 6}
    card = json.loads((tmp_path / "probed" / "muse-backbone.json").read_text())
    assert (card["probe"]["step"], card["probe"]["knn_accuracy"]) == (6, rows[6]["probe_knn"])
    one, two = (read_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("probed", "plain"))
    assert all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())
    assert one.about["settings"] == two.about["settings"], "a run may be resumed with another probe, or without"


def test_a_probe_that_nobody_brings_is_told(data, tmp_path):
    with pytest.raises(ConfigError, match=r"probe\.dataset is brca-m2c; give the probe"):
        pretrain(tmp_path / "rois", tmp_path / "out", settings=probed(data))
    assert probe_for(tiny()) is None
