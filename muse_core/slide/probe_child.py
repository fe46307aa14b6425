"""Opens and reads a slide, saying what it is at: `python -m muse_core.slide.probe_child FILE`. It may die of it."""

import sys
from pathlib import Path

from muse_core.errors import MuseError
from muse_core.slide.probe import read_without_asking
from muse_core.slide.slide import open_slide


def _say(words: str) -> None:
    """A line that is out before what it tells of begins."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _main(path: Path) -> None:
    """Read a file as a run would, a word ahead of each step."""
    read_without_asking()
    _say("while it opens the file")
    try:
        with open_slide(path, tolerate_missing_mpp=True) as slide:
            _say(f"while {slide.info.reader} reads its overview")
            slide.thumbnail(500)
            size = slide.info.levels[0]
            for part in range(16):
                x, y = size.width * (part % 4) // 4, size.height * (part // 4) // 4
                _say(f"while {slide.info.reader} reads at x={x} y={y}")
                slide.read_level(x, y, 512, 512)
    except MuseError as error:
        _say(f"after it said: {error}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
