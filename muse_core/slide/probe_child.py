"""Opens and reads a slide, saying what it is at; it may die of it.

`python -m muse_core.slide.probe_child FILE [--whole] [--scene N]`
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from muse_core.errors import MuseError, SlideReadError
from muse_core.slide.probe import read_without_asking
from muse_core.slide.slide import Slide, open_slide

_SIDE_PX = 512
_WHOLE_SIDE_PX = 2048
_LONGEST_S = 60.0


def _say(words: str) -> None:
    """A line that is out before what it tells of begins."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _main(path: Path, *, whole: bool, scene: int | None) -> None:
    """Read a file as a run would, a word ahead of each step."""
    until = time.monotonic() + _LONGEST_S
    read_without_asking()
    _say("while it opens the file")
    try:
        with open_slide(path, tolerate_missing_mpp=True, scene=scene) as slide:
            _say(f"while {slide.info.reader} reads its overview")
            slide.thumbnail(500)
            side = _WHOLE_SIDE_PX if whole else _SIDE_PX
            for x, y in _everywhere(slide, until) if whole else _here_and_there(slide):
                _say(f"while {slide.info.reader} reads at x={x} y={y}")
                _read(slide, x, y, side)
    except MuseError as error:
        _say(f"after it said: {error}")


def _here_and_there(slide: Slide) -> Iterator[tuple[int, int]]:
    size = slide.info.levels[0]
    for part in range(16):
        yield size.width * (part % 4) // 4, size.height * (part // 4) // 4


def _everywhere(slide: Slide, until: float) -> Iterator[tuple[int, int]]:
    """All of level 0, row by row, as far as the time goes."""
    size = slide.info.levels[0]
    for y in range(0, size.height, _WHOLE_SIDE_PX):
        for x in range(0, size.width, _WHOLE_SIDE_PX):
            if time.monotonic() > until:
                return
            yield x, y


def _read(slide: Slide, x: int, y: int, side: int) -> None:
    try:
        slide.read_level(x, y, side, side)
    except SlideReadError as error:  # a region's fault, which a run lives with too
        _say(f"after it said: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--scene", type=int)
    asked = parser.parse_args()
    _main(asked.path, whole=asked.whole, scene=asked.scene)
