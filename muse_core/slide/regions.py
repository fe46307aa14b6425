"""Many regions of one slide, decoded ahead where the reader can, with every region's failure its own."""

from collections.abc import Callable, Iterator, Sequence

from muse_core.errors import MuseError, SlideReadError
from muse_core.images.pixels import Pixels
from muse_core.slide.handles import Handles
from muse_core.slide.info import Level
from muse_core.slide.reader import Reader
from muse_core.slide.resample import Window

_BATCH = 32  # regions a call of the reader's batch loader; its threads start anew with each


class Regions(Iterator[Pixels]):
    """The regions of `Slide.read_regions`, in order.

    After a SlideReadError for one region, `next` goes on with the following one.
    """

    def __init__(
        self,
        handles: Handles,
        windows: Sequence[Window],
        *,
        level: int,
        level_size: Level,
        read_one: Callable[[Window], Pixels],
        finish: Callable[[Pixels, Window], Pixels],
    ) -> None:
        """Nothing is read yet.

        Args:
            handles: lends handles on the slide.
            windows: the level px of each region.
            level: the level they lie in.
            level_size: that level.
            read_one: reads a window anywhere, padded, with a second try.
            finish: from a window's pixels to the region.
        """
        self._handles = handles
        self._windows = windows
        self._level = level
        self._level_size = level_size
        self._read_one = read_one
        self._finish = finish
        self._position = 0
        self._batch_end = 0
        self._reader: Reader | None = None
        self._stream: Iterator[Pixels] | None = None

    def __next__(self) -> Pixels:
        """The next region.

        Raises:
            SlideReadError: this one cannot be decoded.
            StopIteration: there are no more.
        """
        if self._position >= len(self._windows):
            raise StopIteration
        window = self._windows[self._position]
        if self._position >= self._batch_end:
            self._start_batch()
        self._position += 1
        source = self._from_stream()
        if self._position >= self._batch_end:
            self._end_batch(healthy=True)
        try:
            return self._finish(self._read_one(window) if source is None else source, window)
        except MuseError:  # the file has changed, too
            self._end_batch(healthy=False)
            raise

    def close(self) -> None:
        """Stop decoding ahead; needed only where the regions are not all wanted."""
        self._position = len(self._windows)
        self._end_batch(healthy=False)

    def _start_batch(self) -> None:
        """Let the reader decode ahead for as many of the next windows as have one size and lie inside the image."""
        first = self._windows[self._position]
        end = self._position
        while end < min(self._position + _BATCH, len(self._windows)) and self._fits(self._windows[end], first):
            end += 1
        self._batch_end = max(end, self._position + 1)
        if end - self._position < 2:
            return
        corners = [(one.x, one.y) for one in self._windows[self._position : end]]
        self._reader = self._handles.take()
        self._stream = self._reader.read_many(corners, first.width, first.height, level=self._level)

    def _fits(self, window: Window, first: Window) -> bool:
        return window.lies_in(self._level_size) and (window.width, window.height) == (first.width, first.height)

    def _from_stream(self) -> Pixels | None:
        """The next pixels decoded ahead; None where they must be read alone, which tells a bad region from others."""
        if self._stream is None:
            return None
        try:
            return next(self._stream)
        except (SlideReadError, StopIteration):
            self._end_batch(healthy=False)
            return None

    def _end_batch(self, *, healthy: bool) -> None:
        reader, self._reader, self._stream = self._reader, None, None
        if reader is not None:
            self._handles.give_back(reader, healthy=healthy)
