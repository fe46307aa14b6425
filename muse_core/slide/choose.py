"""Which reader to trust with a slide: the fast one where it decodes the same pixels as another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from muse_core.errors import ConfigError, SlideReadError
from muse_core.images.pixels import Pixels
from muse_core.slide.cucim_reader import CucimReader
from muse_core.slide.handles import Handles
from muse_core.slide.image_reader import IMAGE_SUFFIXES, ImageFile
from muse_core.slide.info import Mpp
from muse_core.slide.lower_levels import LowerLevelsReader, adds_levels, with_lower_levels
from muse_core.slide.openslide_reader import OpenSlideReader
from muse_core.slide.reader import Reader, Source
from muse_core.slide.tifffile_reader import TifffileReader
from muse_core.slide.tile_check import BrokenTileError

READERS = ("auto", "cucim", "openslide", "tifffile", "pillow")

_SAMPLES_WANTED = 3
_MAX_DIFFERENCE = 2.0  # mean absolute grey levels; JPEG decoders of one image differ by less than 1
# Side in px, and place as fractions of the room it has: centre first. More than are wanted, with small ones at the
# corners, for a broken tile may lie under some.
_SAMPLES = (
    (256, 0.5, 0.5),
    (256, 0.25, 0.25),
    (256, 0.75, 0.6),
    (256, 0.6, 0.25),
    (256, 0.25, 0.75),
    (64, 0.0, 0.0),
    (64, 1.0, 1.0),
    (64, 1.0, 0.0),
    (64, 0.0, 1.0),
)
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Choice:
    """The reader of a slide, and what the look at the file brought out.

    Attributes:
        name: the reader.
        handles: lends its handles out.
        source: what the reader says.
        check: how it was checked, in a few words.
        mpp_candidates: the figures of every reader that opened the file.
        vendor: OpenSlide's word for the format where it knows it.
    """

    name: str
    handles: Handles
    source: Source
    check: str
    mpp_candidates: tuple[Mpp, ...]
    vendor: str


class _Candidate:
    """A reader that opens the file, with the sample regions it decoded so far."""

    def __init__(self, name: str, open_reader: Callable[[], Reader]) -> None:
        self.name = name
        self.open_reader = open_reader
        self.handles = Handles(open_reader)
        with self.handles.borrow() as reader:
            self.source = reader.source
        self.failure = ""
        self.fails_by_itself = False

    def sample(self, side_px: int, across: float, down: float) -> Pixels | None:
        """One sample region of level 0, or None when it does not decode (see `failure`)."""
        size = self.source.levels[0]
        width, height = min(side_px, size.width), min(side_px, size.height)
        corner = (int((size.width - width) * across), int((size.height - height) * down))
        try:
            return self.handles.read(lambda reader: reader.read(corner, width, height, level=0))
        except SlideReadError as error:
            self.failure = str(error)
            self.fails_by_itself = self.fails_by_itself or not isinstance(error, BrokenTileError)
            return None


def choose_reader(path: Path, wanted: str, *, read_threads: int = 1) -> Choice:
    """Open the file with the reader that serves it best.

    Args:
        path: an existing file.
        wanted: "auto", or the name of the one reader to use (still checked against another).
        read_threads: threads of cuCIM's batch loader.

    Returns:
        The reader, checked.

    Raises:
        SlideReadError: no reader decodes any sample region; names each reader's own error.
        ConfigError: no such reader.
    """
    if wanted not in READERS:
        raise ConfigError(f"reader {wanted!r} is unknown; one of {', '.join(READERS)} is needed")
    _refuse_what_is_no_file(path)
    candidates, failures = _open_candidates(path, read_threads)
    chosen, check = _pick(candidates, failures, wanted)
    for candidate in candidates:
        if candidate is not chosen:
            candidate.handles.close()
    if chosen is None:
        raise SlideReadError(f"{path}: no reader decodes it{_hint(path)}: {_in_words(failures)}")
    handles, source, note = _with_lower_levels(chosen, candidates)
    vendors = {one.name: one.source.vendor for one in candidates}
    bounds = next((one.source.bounds_level0 for one in candidates if one.source.bounds_level0), None)
    return Choice(
        name=chosen.name,
        handles=handles,
        source=replace(source, bounds_level0=bounds),
        check=check + note,
        mpp_candidates=tuple(mpp for one in candidates for mpp in one.source.mpp_candidates),
        vendor=vendors.get("openslide") or vendors.get("tifffile") or chosen.source.vendor,
    )


def _with_lower_levels(chosen: _Candidate, candidates: list[_Candidate]) -> tuple[Handles, Source, str]:
    """The chosen reader's handles and source, with the lower levels of another where that one sees more."""
    for other in candidates:
        if adds_levels(chosen.source, other.source):
            chosen.handles.close()
            handles = Handles(partial(LowerLevelsReader, chosen.open_reader, other.open_reader))
            return handles, with_lower_levels(chosen.source, other.source), f"; lower levels by {other.name}"
    return chosen.handles, chosen.source, ""


def _refuse_what_is_no_file(path: Path) -> None:
    if path.is_dir():
        raise SlideReadError(f"{path}: is a folder; the path of a slide file is needed")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise SlideReadError(f"{path}: no such file; check the path", reason="not_found") from None
    except OSError as error:
        raise SlideReadError(f"{path}: cannot be opened: {error.strerror or error}") from None
    if not first:
        raise SlideReadError(f"{path}: is empty (0 bytes); fetch it again")


def _open_candidates(path: Path, read_threads: int) -> tuple[list[_Candidate], dict[str, str]]:
    """The readers that open the file, best first, and why the others don't."""
    openers: dict[str, Callable[[], Reader]] = {
        "cucim": partial(CucimReader, path, read_threads=read_threads),
        "openslide": partial(OpenSlideReader, path),
        "tifffile": partial(TifffileReader, path),
    }
    if path.suffix.lower() in IMAGE_SUFFIXES:
        openers = {"pillow": ImageFile(path).open}
    candidates, failures = [], {}
    for name, opener in openers.items():
        try:
            candidates.append(_Candidate(name, opener))
        except SlideReadError as error:
            failures[name] = str(error)
    return candidates, failures


def _pick(candidates: list[_Candidate], failures: dict[str, str], wanted: str) -> tuple[_Candidate | None, str]:
    """The first candidate that decodes its samples and is not contradicted, and how that was found out, in words."""
    notes = ["cucim does not open it"] if "cucim" in failures else []
    for candidate in candidates:
        if wanted not in ("auto", candidate.name):
            continue
        others = [one for one in candidates if one is not candidate] if candidate.name == "cucim" else []
        verdict = _check(candidate, others)
        if verdict is not None:
            return candidate, "; ".join([*notes, verdict])
        failures[candidate.name] = candidate.failure
        notes.append(f"{candidate.name} failed: {candidate.failure.removeprefix(candidate.name + ': ')}")
    return None, ""


def _check(candidate: _Candidate, others: list[_Candidate]) -> str | None:
    """Compare samples with the first other reader that decodes any; None where the candidate is not to be trusted."""
    for other in others:
        compared = _agreeing_samples(candidate, other)
        if compared is None:
            return None
        if compared:
            return f"equal to {other.name} on {compared} region{'s' if compared > 1 else ''}"
    if others:
        # A reader that opens the file and decodes none of it says that the bytes are bad; cuCIM would not say so.
        candidate.failure = candidate.failure or f"not confirmed by {others[0].failure}"
        return None
    if not any(candidate.sample(*sample) is not None for sample in _SAMPLES):
        return None
    return "no second reader opens it" if candidate.name == "cucim" else f"{candidate.name} decodes a sample region"


def _agreeing_samples(candidate: _Candidate, other: _Candidate) -> int | None:
    """How many regions both decode to the same pixels; None at the first that differs or only the other decodes.

    A region with a broken tile tells nothing about the candidate: some readers fill such a tile with grey and go on.
    """
    agreeing = 0
    for mine, theirs in _sample_pairs(candidate, other):
        if theirs is None:
            continue
        if mine is None:
            if candidate.fails_by_itself:
                return None
            continue
        difference = float(np.abs(mine.astype(np.int16) - theirs).mean()) if mine.shape == theirs.shape else 255.0
        if difference > _MAX_DIFFERENCE:
            candidate.failure = f"differs from {other.name} by {difference:.1f} grey levels"
            return None
        agreeing += 1
        if agreeing == _SAMPLES_WANTED:
            break
    return agreeing


def _sample_pairs(one: _Candidate, other: _Candidate) -> Iterator[tuple[Pixels | None, Pixels | None]]:
    for sample in _SAMPLES:
        yield one.sample(*sample), other.sample(*sample)


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        return " (it is a git-lfs pointer, not the slide: run git lfs pull)"
    return ""


def _in_words(failures: dict[str, str]) -> str:
    """Each reader's own error, shortly, in one line."""
    return "; ".join(_short(name, text) for name, text in failures.items())


def _short(name: str, text: str, limit: int = 140) -> str:
    words = " ".join(text.split())
    words = words if words.startswith(f"{name}:") else f"{name}: {words}"
    return words if len(words) <= limit else words[: limit - 1] + "…"
