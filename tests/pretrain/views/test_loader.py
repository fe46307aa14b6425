"""The loader: one order whatever the workers and ranks, a place to resume from, and one clear line for bad input."""

import logging
import os
import signal

import numpy as np
import pytest
import torch
from tenacity import stop_after_attempt

from muse_core.errors import DatasetError, WorkersLostError
from muse_core.pretrain.views import ViewLoader, ViewSettings
from muse_core.pretrain.views import loader as loader_module
from muse_core.pretrain.views.loader import _next
from muse_core.roi_dataset.dataset import RoiDataset
from tests.pretrain.views.drawn_rois import roi_row, write_dataset

SMALL = ViewSettings(global_px=64, local_px=32, local_views=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Fourteen ROIs of 160 px, one of them without nuclei."""
    rows = (roi_row(number, n_nuclei=0 if number == 5 else 8) for number in range(14))
    return RoiDataset(write_dataset(tmp_path_factory.mktemp("rois"), rows))


def contents(batches):
    """What a list of batches holds, comparable."""
    return [
        (
            batch.roi_ids,
            *(getattr(batch, name) for name in ("global_images", "local_images", "xy", "valid", "image_index")),
        )
        for batch in batches
    ]


def same(one, other):
    assert len(one) == len(other)
    for (ids, *tensors), (other_ids, *others) in zip(contents(one), contents(other), strict=True):
        assert ids == other_ids
        assert all(torch.equal(tensor, another) for tensor, another in zip(tensors, others, strict=True))


@pytest.fixture(scope="module")
def first_epoch(dataset):
    return list(ViewLoader(dataset, SMALL, batch_size=4, seed=7).batches(0))


def test_an_epoch_is_whole_batches_of_different_rois(dataset, first_epoch):
    assert [len(batch) for batch in first_epoch] == [4, 4, 4]  # 14 ROIs: the incomplete fourth is dropped
    assert len({roi_id for batch in first_epoch for roi_id in batch.roi_ids}) == 12
    assert ViewLoader(dataset, SMALL, batch_size=4, seed=7).steps() == 3
    assert first_epoch[0].slide_ids == [f"slide_{int(roi_id[-5:]) % 3}" for roi_id in first_epoch[0].roi_ids]


@pytest.mark.parametrize(
    ("workers", "method"),
    [(1, "fork"), pytest.param(3, "fork", marks=pytest.mark.slow), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_any_number_of_workers_gives_the_same_batches(dataset, first_epoch, workers, method):
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=7, workers=workers, start_method=method)
    same(list(loader.batches(0)), first_epoch)
    same(list(loader.batches(0, start_roi=8)), first_epoch[2:])  # the workers are kept


def test_ranks_share_the_order(dataset, first_epoch):
    ranks = [list(ViewLoader(dataset, SMALL, batch_size=2, seed=7, rank=rank, world=2).batches(0)) for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [3, 3]
    for step, whole in enumerate(first_epoch):
        for rank in (0, 1):
            part = ranks[rank][step]
            assert part.roi_ids == whole.roi_ids[rank::2]
            assert torch.equal(part.global_images, whole.global_images[:, rank::2])
            assert torch.equal(part.local_images, whole.local_images[:, rank::2])


def test_a_resumed_epoch_is_the_rest_of_it(dataset, first_epoch):
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=7)
    same(list(loader.batches(0, start_roi=4)), first_epoch[1:])
    assert loader.steps(start_roi=4) == 2
    assert list(loader.batches(0, start_roi=12)) == []


def test_epochs_and_seeds_differ(dataset, first_epoch):
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=7)
    assert next(loader.batches(1)).roi_ids != first_epoch[0].roi_ids
    assert next(ViewLoader(dataset, SMALL, batch_size=4, seed=8).batches(0)).roi_ids != first_epoch[0].roi_ids


def test_an_epoch_left_early_does_not_reach_into_the_next(dataset, first_epoch):
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=7, workers=2, start_method="fork")
    next(loader.batches(1))
    same(list(loader.batches(0)), first_epoch)


def test_another_size_of_view_is_another_loader(dataset):
    wide = ViewSettings(global_px=80, local_px=48, local_views=1)
    batch = next(ViewLoader(dataset, wide, batch_size=2, seed=7).batches(0))
    assert batch.global_images.shape == (2, 2, 3, 80, 80)
    assert batch.local_images.shape == (1, 2, 3, 48, 48)


# Bad input


def test_fewer_rois_than_a_step(dataset):
    with pytest.raises(DatasetError, match="holds 14 ROIs, one step needs 16; use a smaller batch size"):
        ViewLoader(dataset, SMALL, batch_size=8, seed=0, world=2)


@pytest.mark.parametrize("nuclei", [True, False])
def test_no_nuclei_at_all(tmp_path, nuclei):
    rows = [roi_row(number, n_nuclei=0, nuclei=nuclei) for number in range(3)]
    with pytest.raises(DatasetError, match=r"none of the 3 ROIs has nuclei.*build the dataset again with a detector"):
        ViewLoader(RoiDataset(write_dataset(tmp_path, rows)), SMALL, batch_size=2, seed=0)


@pytest.mark.parametrize("nuclei", [True, False])
def test_views_alone_need_no_nuclei(tmp_path, nuclei):
    dataset = RoiDataset(write_dataset(tmp_path, [roi_row(number, n_nuclei=0, nuclei=nuclei) for number in range(2)]))
    (batch,) = ViewLoader(dataset, SMALL, batch_size=2, seed=0, nuclei_needed=False).batches(0)
    assert len(batch) == 2
    assert batch.xy.shape[1] == 0


def test_a_roi_smaller_than_a_view(tmp_path):
    rows = [roi_row(0), roi_row(1, side=60, n_nuclei=1), roi_row(2)]
    dataset = RoiDataset(write_dataset(tmp_path, rows))
    with pytest.raises(DatasetError, match=r"ROI drawn_00001: 60 x 60 px .*a global view of 64 px .*needs 64 px"):
        ViewLoader(dataset, SMALL, batch_size=2, seed=0)


def test_a_roi_that_holds_only_the_finer_views(tmp_path, caplog):
    dataset = RoiDataset(write_dataset(tmp_path, [roi_row(number, side=100) for number in range(4)]))
    with caplog.at_level(logging.WARNING):
        loader = ViewLoader(dataset, SMALL, batch_size=4, seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        "4 ROIs hold no global view of 0.5 µm/px: theirs stay finer"
    ]
    assert len(list(loader.batches(0))) == 1


def test_coarse_rois_are_enlarged_and_say_so(tmp_path, caplog):
    dataset = RoiDataset(write_dataset(tmp_path, [roi_row(number, mpp=0.5) for number in range(4)]))
    with caplog.at_level(logging.WARNING):
        ViewLoader(dataset, SMALL, batch_size=4, seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        "4 ROIs are coarser than the finest global views, which are enlarged from them",
        "4 ROIs are coarser than the finest local views, which are enlarged from them",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_another_roi_stands_in_for_a_damaged_one(tmp_path, workers):
    rows = [roi_row(number, image=b"II*\0 no image" if number == 2 else None) for number in range(4)]
    dataset = RoiDataset(write_dataset(tmp_path, rows))
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=0, workers=workers, start_method="fork")
    (batch,) = loader.batches(0)
    assert len(batch) == 4
    assert "drawn_00002" not in batch.roi_ids
    ((name, reason),) = batch.left_out.items()
    assert name == "ROI 2 of the dataset"
    assert reason.startswith("drawn_00002: ")
    (again,) = loader.batches(0)
    assert again.roi_ids == batch.roi_ids


def test_a_dataset_of_damaged_rois_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(loader_module._AGAIN, "stop", stop_after_attempt(1))
    rows = [roi_row(number, image=b"II*\0 no image") for number in range(4)]
    loader = ViewLoader(RoiDataset(write_dataset(tmp_path, rows)), SMALL, batch_size=4, seed=0)
    with pytest.raises(DatasetError, match="11 ROIs, one after another, cannot be read; the last: drawn_") as caught:
        list(loader.batches(0))
    assert len(str(caught.value)) < 300


@pytest.mark.gpu
def test_batches_are_pinned_where_there_is_a_gpu(dataset):
    batch = next(ViewLoader(dataset, SMALL, batch_size=4, seed=0, workers=1).batches(0))
    assert batch.global_images.is_pinned()
    assert batch.to("cuda").xy.is_cuda


def test_the_callers_own_chance_is_neither_used_nor_touched(dataset, first_epoch):
    np.random.seed(3)
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1]
    same(list(ViewLoader(dataset, SMALL, batch_size=4, seed=7).batches(0)), first_epoch)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.slow
def test_a_killed_worker_is_one_line(dataset):
    loader = ViewLoader(dataset, SMALL, batch_size=1, seed=0, workers=1, start_method="fork")
    batches = loader.batches(0)
    next(batches)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkersLostError, match=r"a loader worker was killed.*use fewer workers") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_outlive_an_interrupt(dataset, first_epoch):
    loader = ViewLoader(dataset, SMALL, batch_size=4, seed=7, workers=1, start_method="fork")
    batches = loader.batches(0)
    seen = [next(batches)]
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGINT)
    same([*seen, *batches], first_epoch)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_killed_with_its_batch_in_hand_is_one_line(error):
    def batches():
        raise error
        yield

    with pytest.raises(WorkersLostError, match="a loader worker was killed"):
        _next(batches())
