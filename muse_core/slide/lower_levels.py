"""A reader that sees only the full image, helped out by one that sees the smaller levels too."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from muse_core.images.pixels import Pixels
from muse_core.slide.reader import Corner, Reader, Source


class LowerLevelsReader:
    """Two handles as one: the first reads the levels it has, the second the rest.

    OME-TIFF keeps its lower levels in SubIFDs, which cuCIM and OpenSlide pass over. Without them an overview would have
    to decode the whole of level 0.
    """

    def __init__(self, open_first: Callable[[], Reader], open_second: Callable[[], Reader]) -> None:
        """Open both."""
        self._first = open_first()
        self._second = open_second()
        self.name = self._first.name
        self.source = with_lower_levels(self._first.source, self._second.source)

    def read(self, corner: Corner, width: int, height: int, *, level: int) -> Pixels:
        """See `Reader.read`."""
        return self._of(level).read(corner, width, height, level=level)

    def read_many(self, corners: Sequence[Corner], width: int, height: int, *, level: int) -> Iterator[Pixels]:
        """See `Reader.read_many`."""
        return self._of(level).read_many(corners, width, height, level=level)

    def read_associated(self, name: str) -> Pixels:
        """See `Reader.read_associated`."""
        return self._first.read_associated(name)

    def close(self) -> None:
        """Close both handles."""
        self._first.close()
        self._second.close()

    def _of(self, level: int) -> Reader:
        return self._first if level < len(self._first.source.levels) else self._second


def adds_levels(first: Source, second: Source) -> bool:
    """Whether the second source begins with all levels of the first and goes on."""
    sizes = [[(level.width, level.height) for level in source.levels] for source in (first, second)]
    return len(sizes[1]) > len(sizes[0]) and sizes[1][: len(sizes[0])] == sizes[0]


def with_lower_levels(first: Source, second: Source) -> Source:
    """The first source with the levels of the second."""
    return replace(first, levels=second.levels)
