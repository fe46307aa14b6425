"""Handles that read the levels a file was judged to have, whatever levels the readers themselves see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from muse_core.images.pixels import Pixels
from muse_core.slide.reader import Corner, Reader, Source


class LevelsReader:
    """One or two handles as one: the first reads the levels that it has, the second the rest.

    OME-TIFF keeps its lower levels in SubIFDs, which cuCIM and OpenSlide pass over; without them an overview would have
    to decode the whole of level 0. And both list levels that are none.
    """

    def __init__(
        self,
        open_first: Callable[[], Reader],
        own_levels: Sequence[int | None],
        source: Source,
        open_second: Callable[[], Reader] | None = None,
    ) -> None:
        """Open them.

        Args:
            open_first: opens the reader in question.
            own_levels: its number of each judged level, None for one that it does not have.
            source: what was judged of the file.
            open_second: opens a reader of all judged levels; not needed where the first has them all.
        """
        self._first = open_first()
        self._own_levels = tuple(own_levels)
        self._second = open_second() if open_second and None in own_levels else None
        self.name = self._first.name
        self.source = replace(source, associated=self._first.source.associated or source.associated)

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """See `Reader.read`."""
        reader, own = self._of(level)
        return reader.read(corner, width, height, level=own)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """See `Reader.read_many`."""
        reader, own = self._of(level)
        return reader.read_many(corners, width, height, level=own)

    def read_associated(self, name: str) -> Pixels:
        """See `Reader.read_associated`."""
        return self._first.read_associated(name)

    def close(self) -> None:
        """Close both handles."""
        self._first.close()
        if self._second is not None:
            self._second.close()

    def _of(self, level: int) -> tuple[Reader, int]:
        own = self._own_levels[level]
        if own is not None:
            return self._first, own
        assert self._second is not None, "a level that no reader has"
        return self._second, level


def own_levels(judged: Sequence[tuple[int, int]], seen: Source) -> tuple[int | None, ...]:
    """A reader's number of each judged level, by the size of the page it is stored in."""
    numbers = {(level.width, level.height): number for number, level in reversed(list(enumerate(seen.levels)))}
    return tuple(numbers.get(size) for size in judged)
