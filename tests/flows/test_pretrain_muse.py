"""Pretraining in a process of its own, with Prefect's own server."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from flows.gpu import GPU_LIMIT, gpu_slots
from flows.pretrain_muse import pretrain_muse
from tests.pretrain.tiny_runs import DEFAULTS, OVERRIDES, drawn_dataset

# Prefect's server and its database driver warn in ways that are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("prefect_server")]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a process that imports torch
def test_a_backbone_and_its_summary(artifacts, tmp_path):
    drawn_dataset(tmp_path / "rois")
    out = tmp_path / "out"
    overrides = (*OVERRIDES, "steps=2")
    answer = pretrain_muse(str(tmp_path / "rois"), out, config=DEFAULTS, overrides=overrides, device="cpu")
    assert (answer["step"], answer["done"]) == (2, True)
    assert (out / "pretrain.log").read_text().rstrip().endswith("}")
    assert "Step 2 of 2, loss " in str(artifacts()["pretrain-muse-summary"])

    again = pretrain_muse(str(tmp_path / "rois"), out, config=DEFAULTS, overrides=overrides, device="cpu")
    assert (again["step"], again["loss"]) == (2, None)
    assert "Step 2 of 2, nothing left to do" in str(artifacts()["pretrain-muse-summary"])


def test_slots_of_the_limit_are_held_for_the_length_of_the_block():
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=2))

        def taken() -> int:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots

        with gpu_slots(0):
            assert taken() == 0
        with gpu_slots(2):
            assert taken() == 2
        assert taken() == 0
        client.delete_global_concurrency_limit_by_name(GPU_LIMIT)
