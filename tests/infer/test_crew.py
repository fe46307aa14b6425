"""How many tiles a call of the network, by the memory that is free."""

from pathlib import Path

import pytest
import torch

from muse_core.infer.crew import crew_for
from muse_core.infer.job import InferJob
from muse_core.infer.settings import InferSettings

GIB = 2**30


def job(device: str) -> InferJob:
    here = Path()
    return InferJob(
        slide_id="S",
        case_id="C",
        project="P",
        path=here,
        md5=None,
        mpp_override=None,
        inputs_hash="",
        pieces="",
        staging=here,
        tissue_file=here,
        tissue_edited=None,
        regions=None,
        checkpoint=None,
        device=device,
        threads=4,
        settings=InferSettings(),
    )


@pytest.mark.parametrize(("free", "kept", "tiles"), [(70 * GIB, 0, 4), (7 * GIB, 0, 1), (7 * GIB, 63 * GIB, 4)])
def test_a_gpu_that_others_use_gets_smaller_batches(monkeypatch, free, kept, tiles):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (asked.append(device), (free, 80 * GIB))[1])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: kept + GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: GIB)
    assert crew_for(job("cuda"), "cuda:3").batch_tiles == tiles
    assert asked == [torch.device("cuda:3")], "the GPU that was picked"
