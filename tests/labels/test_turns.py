from collections import Counter
from dataclasses import dataclass

from muse_core.labels.turns import regions_in_turn


@dataclass(frozen=True)
class Piece:
    name: str
    source: str


PIECES = [Piece(f"{source}{number}", source) for source, count in (("a", 5), ("b", 30)) for number in range(count)]


def drawn(steps, weights, count=8):
    key = [0, 1]
    return [one for step in range(steps) for one in regions_in_turn(PIECES, weights, step=step, count=count, key=key)]


def test_sources_come_up_by_weight_whatever_their_size():
    found = Counter(one.source for one in drawn(100, {"a": 3.0}))
    assert abs(found["a"] / 800 - 0.75) < 0.01
    assert all(one.source for one in drawn(1, {"a": 3.0, "c": 9.0}))


def test_each_of_a_source_comes_up_once_an_epoch():
    found = [one.name for one in drawn(60, {}) if one.source == "a"]
    for epoch in range(len(found) // 5):
        assert len(set(found[5 * epoch : 5 * epoch + 5])) == 5


def test_a_step_hangs_on_nothing_before_it():
    late = regions_in_turn(PIECES, {"a": 2.0}, step=17, count=8, key=[0, 1])
    assert late == drawn(18, {"a": 2.0})[-8:]
    assert late != regions_in_turn(PIECES, {"a": 2.0}, step=17, count=8, key=[1, 1])
