"""The shuffled order and who takes what of it."""

from itertools import zip_longest

import numpy as np
import pytest

from muse_core.errors import DatasetError
from muse_core.roi_dataset.order import Shard, shuffled

TOPOLOGIES = [(1, 1, 1), (1, 3, 1), (2, 1, 4), (3, 2, 4), (4, 5, 2), (7, 3, 3)]  # world size, workers, batch size


def shards(world_size, n_workers, batch_size):
    return [
        [Shard(rank, world_size, worker, n_workers, batch_size) for worker in range(n_workers)]
        for rank in range(world_size)
    ]


def as_a_loader(streams, batch_size):
    """What a rank gets when its workers are asked for a batch each in turn."""
    batches = [[stream[i : i + batch_size] for i in range(0, len(stream), batch_size)] for stream in streams]
    return [p for turn in zip_longest(*batches, fillvalue=[]) for batch in turn for p in batch]


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_order_holds_each_once(count):
    assert sorted(shuffled(count, 3, 4)) == list(range(count))


def test_order_is_the_same_for_ever():
    # Made with plain Python integers: sorted(range(8), key=lambda i: mix(i + mix(mix(7) + epoch))), mix as published.
    mask = 2**64 - 1

    def mix(z):
        z = (z + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    for epoch in (0, 1):
        key = mix((mix(7) + epoch) & mask)
        assert shuffled(8, 7, epoch).tolist() == sorted(range(8), key=lambda i: mix((i + key) & mask))
    assert mix(0) == 0xE220A8397B1DCDAF  # the generator's first output for state 0


def test_epochs_and_seeds_differ():
    orders = [tuple(shuffled(50, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_order_is_mixed():
    order = shuffled(10_000, 0, 0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.03
    assert np.mean(np.abs(np.diff(order)) < 100) < 0.03  # neighbours in the dataset don't stay neighbours


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("start", "stop"), [(0, 101), (17, 101), (100, 101), (101, 101)])
def test_each_position_goes_to_exactly_one_reader(topology, start, stop):
    positions = [p for rank in shards(*topology) for shard in rank for p in shard.positions(start, stop)]
    assert sorted(positions) == list(range(start, stop))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_workers_asked_in_turn_give_the_order_of_one_worker(topology):
    world_size, _, batch_size = topology
    for rank, readers in enumerate(shards(*topology)):
        together = as_a_loader([list(shard.positions(0, 101)) for shard in readers], batch_size)
        assert together == list(range(rank, 101, world_size))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_is_used_after_any_step_is_the_first_of_the_order(topology):
    world_size, _, batch_size = topology
    ranks = [as_a_loader([list(s.positions(0, 101)) for s in readers], batch_size) for readers in shards(*topology)]
    for n_a_rank in range(101 // world_size):
        used = [p for rank in ranks for p in rank[:n_a_rank]]
        assert sorted(used) == list(range(n_a_rank * world_size))


@pytest.mark.parametrize("values", [(2, 2), (-1, 2), (0, 1, 1, 1), (0, 1, 0, 1, 0)])
def test_impossible_readers_are_refused(values):
    with pytest.raises(DatasetError, match="needs 0 <= rank < world_size"):
        Shard(*values)
