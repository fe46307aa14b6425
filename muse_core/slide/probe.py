"""Whether a reader dies of a file, found out in a process that may.

A library that decodes slides can take the process along where a file is of a kind it was not made for. Kinds that were
seen to be read (tests/slide/test_encodings.py) are trusted; of any other the first file is tried here.
"""

import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import NamedTuple

from muse_core.errors import SlideReadError
from muse_core.slide.tiff_pages import PARSE_ERRORS, TiffPage, is_tiff, read_tiff_facts

_COMMAND = (sys.executable, "-m", "muse_core.slide.probe_child")
_AT_ONCE = BoundedSemaphore(2)  # of all threads of this process: many at once would be slow, and look like hanging
_SILENT_S = 120.0  # a file at which nothing was said for so long hangs its reader
_LONGEST_S = 240.0  # whoever still says something then is slow, not dead
_MEMORY_SIGNALS = (signal.SIGKILL,)  # how a system ends a process that takes too much memory
# TIFF compressions that were seen to be decoded or refused by every reader that may have them.
_USUAL = (1, 5, 7, 8, 32773, 32946, 33003, 33005, 34712, 34887, 34925, 34933, 34934, 50000, 50001, 50002)
_USUAL_PREDICTORS = (1, 2)
_UNTRIED_FORMATS = (".mrxs", ".vms", ".vmu", ".czi")  # by their endings: none was at hand to be tested

_probing = {"here": False}


class Kind(NamedTuple):
    """What a reader's fate hangs on, of one page."""

    compression: int
    predictor: int
    photometric: int
    bits: int
    sample_format: int
    channels: int
    planes: int
    is_tiled: bool


def read_without_asking() -> None:
    """Say that this is the process that may die: it asks no other."""
    _probing["here"] = True


def refuse_what_kills(path: Path) -> None:
    """Try the first file seen of a kind that is not known to be read, before any reader of this process gets one.

    Nothing is run for kinds that are known, nor for a TIFF whose tags make no sense, which is refused elsewhere.

    Raises:
        SlideReadError: a process that read such a file died of it or hung (reason reader_died).
    """
    if not _probing["here"] and (death := _first_death(_unusual_kinds(path), path)) is not None:
        text = f"{path}: a reader of such files {death}, found out in a process of its own; convert it to tiled JPEG"
        raise SlideReadError(text, reason="reader_died")


def _unusual_kinds(path: Path) -> frozenset[Kind | str]:
    """The kinds of a file's pages if one of them is not known to be read, else none; of other formats the ending."""
    if not is_tiff(path):
        return frozenset([path.suffix.lower()] if path.suffix.lower() in _UNTRIED_FORMATS else [])
    try:
        kinds = frozenset(_kind(page) for page in read_tiff_facts(path).pages)
    except PARSE_ERRORS:
        return frozenset()
    return frozenset() if all(_is_usual(kind) for kind in kinds) else kinds


def death_of(path: Path, *, whole: bool = False, scene: int | None = None) -> str | None:
    """How reading a file ends the process that does it, in words; None where it lives, is slow, or dies of memory.

    Two files are read at once, others wait.

    Args:
        path: the file.
        whole: read all of its finest level, as far as a minute takes, instead of samples.
        scene: which of several pictures in the file; None for the largest.
    """
    asked = [str(path), *(["--whole"] if whole else []), *([] if scene is None else ["--scene", str(scene)])]
    with (
        _AT_ONCE,
        subprocess.Popen([*_COMMAND, *asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child,
    ):
        try:
            said, hangs = _listen(child)
        finally:
            child.kill()  # nothing where it has ended
    if hangs:
        return f"hangs for over {_SILENT_S:g} s {_last(said)}"
    if child.returncode >= 0 or -child.returncode in _MEMORY_SIGNALS:
        return None
    try:
        name = signal.Signals(-child.returncode).name
    except ValueError:
        name = f"signal {-child.returncode}"
    return f"dies ({name}) {_last(said)}"


def _listen(child: subprocess.Popen[bytes]) -> tuple[str, bool]:
    """What a process said until it ended or the time was over, and whether it hangs at what it said last.

    One that has said nothing yet does not hang: it has not come to the file.
    """
    until, said = time.monotonic() + _LONGEST_S, b""
    while True:
        try:
            return child.communicate(timeout=_SILENT_S)[0].decode(errors="replace"), False
        except subprocess.TimeoutExpired as error:
            before, said = said, error.output or b""
        if said and said == before:
            return said.decode(errors="replace"), True
        if time.monotonic() > until:
            return said.decode(errors="replace"), False


@lru_cache(maxsize=256)
def _cached_death(kinds: frozenset[Kind | str]) -> list[str | None]:
    return []


def _first_death(kinds: frozenset[Kind | str], path: Path) -> str | None:
    if not kinds:
        return None
    known = _cached_death(kinds)
    if not known:
        known.append(death_of(path))
    return known[0]


def _kind(page: TiffPage) -> Kind:
    return Kind(
        page.compression,
        page.predictor,
        page.photometric,
        page.bits,
        page.sample_format,
        page.channels,
        page.planes,
        page.is_tiled,
    )


def _is_usual(kind: Kind) -> bool:
    return kind.compression in _USUAL and kind.predictor in _USUAL_PREDICTORS


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "while it opens the file"
