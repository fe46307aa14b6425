import threading
import time

import pytest

from muse_core.geometry import Box
from muse_core.infer.engine import Clock, Crew, Steps, run_groups
from muse_core.infer.tiles import Tile


def tile(number: int) -> Tile:
    return Tile(number, Box(0, 0, 1, 1), 0, 0, 128, 128)


def groups(*sizes: int) -> list[list[list[Tile]]]:
    numbers = iter(range(sum(sizes)))
    return [[[tile(next(numbers))] for _ in range(size)] for size in sizes]


class Watched:
    """Steps that count how many images are held at once."""

    def __init__(self, read_s: float = 0.0, find_s: float = 0.0):
        self.read_s, self.find_s = read_s, find_s
        self.held = self.most_held = 0
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def read(self, batch):
        time.sleep(self.read_s)
        with self._lock:
            self.held += 1
            self.most_held = max(self.most_held, self.held)
        return batch[0].number

    def find(self, batch, image):
        time.sleep(self.find_s if image % 2 else 0)
        assert image == batch[0].number
        with self._lock:
            self.held -= 1
            self.threads.add(threading.current_thread().name)
        return image


@pytest.mark.parametrize("crew", [Crew(1, 1, 1), Crew(2, 3, 2), Crew(4, 1, 5)])
def test_groups_come_whole_and_in_order_however_long_tiles_take(crew):
    watched = Watched(find_s=0.003)
    found = list(run_groups(groups(3, 1, 5, 2), Steps(watched.read, watched.find), crew, Clock()))
    assert found == [[0, 1, 2], [3], [4, 5, 6, 7, 8], [9, 10]]


def test_reading_ahead_is_bounded():
    watched = Watched(find_s=0.02)
    list(run_groups(groups(40), Steps(watched.read, watched.find), Crew(4, 2, 3), Clock()))
    assert 2 <= watched.most_held <= 2 + 3


def test_reading_goes_on_while_the_network_works():
    watched, clock = Watched(read_s=0.02), Clock()

    def find(batch, image):
        time.sleep(0.02)

    begun = time.perf_counter()
    list(run_groups(groups(20), Steps(watched.read, find), Crew(1, 1, 2), clock))
    taken = time.perf_counter() - begun
    assert clock.seconds["read"] + clock.seconds["network"] > 0.8
    assert taken < 0.75 * (clock.seconds["read"] + clock.seconds["network"])


@pytest.mark.parametrize("step", ["read", "find"])
def test_a_fault_ends_the_run_and_no_thread_stays(step):
    watched, before = Watched(), threading.enumerate()

    def faulty(batch, *image):
        if batch[0].number == 4:
            raise ZeroDivisionError("a fault")
        return batch[0].number

    steps = Steps(faulty, watched.find) if step == "read" else Steps(watched.read, faulty)
    found = run_groups(groups(2, 2, 2, 2), steps, Crew(2, 2, 2), Clock())
    assert [next(found), next(found)] == [[0, 1], [2, 3]]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]


def test_whoever_stops_listening_stops_the_work():
    watched = Watched()
    found = run_groups(groups(*[1] * 50), Steps(watched.read, watched.find), Crew(1, 1, 1), Clock())
    assert next(found) == [0]
    found.close()
    assert watched.most_held < 10
