"""Handles are lent to one caller at a time, and a failed one is never lent again."""

import pytest

from muse_core.errors import SlideReadError
from muse_core.slide.handles import Handles


class FakeReader:
    """A handle that fails for good after its first failure, as OpenSlide's do."""

    def __init__(self) -> None:
        self.poisoned = False
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def get(self, place: str) -> str:
        if self.poisoned or place == "bad":
            self.poisoned = True
            raise SlideReadError(f"{place} does not decode")
        return place


def make() -> tuple[Handles, list[FakeReader]]:
    opened: list[FakeReader] = []

    def open_reader() -> FakeReader:
        opened.append(FakeReader())
        return opened[-1]

    return Handles(open_reader), opened


def test_one_handle_serves_one_caller_after_another():
    handles, opened = make()
    for place in ("a", "b", "c"):
        assert handles.read(lambda reader, place=place: reader.get(place)) == place
    assert len(opened) == 1


def test_two_at_once_get_two():
    handles, opened = make()
    with handles.borrow() as one, handles.borrow() as two:
        assert one is not two
    assert len(opened) == 2
    assert not any(reader.closed for reader in opened)


def test_a_bad_place_is_tried_twice_and_poisons_nothing():
    handles, opened = make()
    with pytest.raises(SlideReadError, match="bad does not decode"):
        handles.read(lambda reader: reader.get("bad"))
    assert [reader.closed for reader in opened] == [True, True]
    assert handles.read(lambda reader: reader.get("good")) == "good"


def test_closing_closes_all_even_those_lent_out():
    handles, opened = make()
    with handles.borrow():
        handles.close()
        assert not opened[0].closed
    assert opened[0].closed
    with pytest.raises(SlideReadError, match="is closed"):
        handles.take()
