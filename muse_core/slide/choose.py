"""Which reader decodes a slide: the one that follows what was judged of it, or a faster one that agrees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from muse_core.errors import ConfigError, SlideReadError, figure
from muse_core.images.orientation import TURNS
from muse_core.images.pixels import Pixels
from muse_core.images.ycbcr_sense import is_ycbcr
from muse_core.slide.cucim_reader import CucimReader
from muse_core.slide.dicom import SeriesFacts, contradicted_colours, facts_of_series, read_dicom_file
from muse_core.slide.file_state import SlideState
from muse_core.slide.focus_planes import planes_of_ndpi
from muse_core.slide.handles import Handles
from muse_core.slide.image_reader import IMAGE_SUFFIXES, ImageFile
from muse_core.slide.info import Level, Mpp
from muse_core.slide.levels_reader import LevelsReader, own_levels
from muse_core.slide.openslide_reader import OpenSlideReader
from muse_core.slide.probe import refuse_what_kills
from muse_core.slide.reader import Reader, Source
from muse_core.slide.same_picture import compare_levels
from muse_core.slide.tiff_judgement import TiffJudgement, judge_tiff
from muse_core.slide.tiff_pages import PARSE_ERRORS, TiffPage, is_tiff
from muse_core.slide.tile_check import BrokenTileError
from muse_core.slide.turned_reader import TurnedReader, turned_source
from muse_core.slide.unread import hint_of, no_reader, refuse_what_is_no_file

READERS = ("auto", "cucim", "openslide", "tifffile", "pillow")

# TIFFs whose pages are no whole pictures: tiles overlap, or several images make one. Only OpenSlide joins them.
_STITCHED = ("hamamatsu", "leica", "ventana", "trestle")
# Formats whose scanners alone write the levels, in a structure that says which is which; nobody puts others there.
_OWN_PYRAMIDS = ("hamamatsu", "mirax", "leica")
_SAMPLES_WANTED = 6
_MAX_DIFFERENCE = 2.0  # mean absolute grey levels; JPEG decoders of one image differ by less than 1
# Side in px, and place as fractions of the room it has: the centre, corners, edges, and more than are wanted, for a
# broken tile may lie under some.
_SAMPLES = (
    (256, 0.5, 0.5),
    (64, 1.0, 1.0),
    (64, 0.0, 0.0),
    (64, 1.0, 0.5),
    (64, 0.5, 1.0),
    (128, 0.25, 0.75),
    (64, 1.0, 0.0),
    (64, 0.0, 1.0),
    (128, 0.75, 0.25),
    (256, 0.25, 0.25),
    (256, 0.75, 0.6),
)
_COLOUR_SAMPLES = 5  # of these, in which colours are looked at: the centre and corners and edges
_EMPTY_SAMPLES = 2  # of tiles that were left out
_KEPT = 8  # examinations that stay in memory: a slide is opened once a piece of work

OpenReader = Callable[[], Reader]


@dataclass(frozen=True)
class Choice:
    """The reader of a slide, and what the look at the file brought out.

    Attributes:
        name: the reader.
        handles: lends its handles out.
        source: what was judged of the file.
        check: how the reader was checked, in a few words.
        vendor: OpenSlide's word for the format where it knows it.
        notes: what was concluded of the file and why, a sentence each.
        state: of its files as they were opened.
        pages: of each level, where they are whole pictures of a TIFF and upright; else none.
        decodes_on_gpu: whether cuCIM may be given the file, which a GPU decodes by.
    """

    name: str
    handles: Handles
    source: Source
    check: str
    vendor: str
    notes: tuple[str, ...]
    state: SlideState
    pages: tuple[TiffPage, ...]
    decodes_on_gpu: bool


@dataclass(frozen=True)
class _Examined:
    """A choice without its handles."""

    name: str
    open_reader: Callable[[int], Reader]
    source: Source
    check: str
    vendor: str
    notes: tuple[str, ...]
    pages: tuple[TiffPage, ...] = ()
    decodes_on_gpu: bool = False


class _Candidate:
    """A reader that opens the file, with the sample regions it decoded so far."""

    def __init__(self, name: str, open_reader: OpenReader) -> None:
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


def choose_reader(path: Path, wanted: str, *, read_threads: int = 1, scene: int | None = None) -> Choice:
    """Judge the file, and open it with the reader that serves it best.

    Args:
        path: an existing file.
        wanted: "auto", or the name of the one reader to use (still checked).
        read_threads: threads of cuCIM's batch loader.
        scene: which of several pictures in the file, 1 for the first; None for the largest.

    Returns:
        The reader, checked.

    Raises:
        SlideReadError: no reader decodes any sample region; names each reader's own error.
        ConfigError: no such reader, or no such scene.
    """
    if wanted not in READERS:
        raise ConfigError(f"reader {wanted!r} is unknown; one of {', '.join(READERS)} is needed")
    refuse_what_is_no_file(path)
    state = SlideState.of(path)
    is_image = path.suffix.lower() in IMAGE_SUFFIXES and not is_tiff(path)
    try:
        # An image is decoded whole by the look at it, so that no look stays in memory.
        found = _examine_image(path, wanted, scene) if is_image else _examine(path, state, wanted, scene)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    handles = Handles(partial(found.open_reader, read_threads))
    return Choice(
        found.name,
        handles,
        found.source,
        found.check,
        found.vendor,
        found.notes,
        state,
        found.pages,
        found.decodes_on_gpu,
    )


@lru_cache(maxsize=_KEPT)
def _examine(path: Path, _: SlideState, wanted: str, scene: int | None) -> _Examined:
    failures: dict[str, str] = {}
    refuse_what_kills(path)
    openslide = _opened("openslide", partial(OpenSlideReader, path), failures)
    try:
        if is_tiff(path) and not (openslide and openslide.source.vendor in _STITCHED):
            return _examine_pages(path, wanted, scene, openslide, failures)
        if openslide is not None:
            _refuse_other_scenes(scene, f"{openslide.source.vendor} as OpenSlide puts it together")
        return _examine_by_openslide(path, wanted, openslide, failures)
    finally:
        if openslide is not None:
            openslide.handles.close()


def _examine_image(path: Path, wanted: str, scene: int | None) -> _Examined:
    _refuse_other_scenes(scene, "an image")
    if wanted not in ("auto", "pillow"):
        raise no_reader(path, {wanted: "reads no such images"})
    image = ImageFile(path)
    try:
        candidate = _Candidate("pillow", image.open)
    except SlideReadError as error:
        raise SlideReadError(f"{error}{hint_of(path)}", reason=error.reason) from None
    size = candidate.source.levels[0]
    notes = [f"an image of one level, {size.width} x {size.height} px"]
    if image.pictures > 1:
        notes.append(f"the first of {image.pictures} pictures in the file")
    if words := TURNS.get(image.orientation):
        notes.append(f"the stored picture is {words} (EXIF orientation {image.orientation}) and read upright")
    return _Examined(
        "pillow", lambda _: image.open(), candidate.source, "pillow decodes it", candidate.source.vendor, tuple(notes)
    )


def _refuse_other_scenes(scene: int | None, what: str) -> None:
    """Of a file that is one picture to us no other can be asked for."""
    if scene not in (None, 1):
        raise ConfigError(f"scene {scene} is not in the file, which has one scene only ({what})")


def _examine_by_openslide(path: Path, wanted: str, openslide: _Candidate | None, failures: dict[str, str]) -> _Examined:
    """A format that only OpenSlide puts together: its word counts, save for levels that show something else."""
    if openslide is None:
        raise no_reader(path, failures)
    if wanted not in ("auto", "openslide"):
        raise no_reader(path, {wanted: f"does not read {openslide.source.vendor} slides; openslide does"})
    if not _decodes(openslide):
        raise no_reader(path, {"openslide": openslide.failure})
    facts = _facts_of_series(path) if openslide.source.vendor == "dicom" else SeriesFacts()
    contradicted = contradicted_colours(path) if openslide.source.vendor == "dicom" else None
    if facts.refusal or contradicted in ("rgb", "both"):
        held = "RGB and YCbCr frames alike" if contradicted == "both" else "RGB frames for the YCbCr of its header"
        raise no_reader(path, {"openslide": facts.refusal or f"would take {held}; convert it"})
    if contradicted is None:
        _refuse_ycbcr(path, openslide)
    levels, notes = _levels_of_one_picture(openslide)
    _refuse_another_slide(path, [level for _, level in levels])
    notes += [*openslide.source.notes, *facts.notes, *_notes_of_ndpi(path, openslide.source.vendor)]
    source = replace(
        openslide.source,
        levels=tuple(level for _, level in levels),
        mpp_candidates=openslide.source.mpp_candidates + facts.mpp_candidates,
    )
    numbers = [number for number, _ in levels]
    size = source.levels[0]
    if contradicted:
        notes.append("its JPEG is YCbCr by its own markers, whatever the header says")
    notes.insert(0, f"{source.vendor} as OpenSlide puts it together, {size.width} x {size.height} px")

    def open_reader(_: int) -> Reader:
        return LevelsReader(partial(OpenSlideReader, path, from_ycbcr=contradicted == "ycbcr"), numbers, source)

    check = "openslide decodes a sample region"
    return _Examined("openslide", open_reader, source, check, source.vendor, tuple(notes))


def _notes_of_ndpi(path: Path, vendor: str) -> list[str]:
    """What is to be said of planes in focus, of which OpenSlide reads one."""
    planes = planes_of_ndpi(path) if vendor == "hamamatsu" and is_tiff(path) else None
    return [planes] if planes else []


def _facts_of_series(path: Path) -> SeriesFacts:
    return facts_of_series([one for one, _ in SlideState.of(path).files])


def _refuse_another_slide(path: Path, levels: list[Level]) -> None:
    """OpenSlide reads the largest slide of a series; that a level of another was asked for must not go unseen."""
    own = read_dicom_file(path)
    if own is not None and own.is_volume and own.size not in [(one.width, one.height) for one in levels]:
        largest = levels[0]
        raise SlideReadError(
            f"{path}: {own.size[0]} x {own.size[1]} px, and no level of the slide of {largest.width} x "
            f"{largest.height} px whose series it claims; put each slide into a folder of its own"
        )


def _refuse_ycbcr(path: Path, candidate: _Candidate) -> None:
    samples = [found for one in _SAMPLES[:_COLOUR_SAMPLES] if (found := candidate.sample(*one)) is not None]
    if is_ycbcr(samples):
        raise SlideReadError(
            f"{path}: its colours are YCbCr that nothing in the file calls so: read as RGB its glass is salmon and its "
            "tissue has one hue; convert it to RGB"
        )


def _levels_of_one_picture(openslide: _Candidate) -> tuple[list[tuple[int, Level]], list[str]]:
    """The levels that show the same as the finer ones, with their numbers, and what is to be said of the others."""
    if openslide.source.vendor in _OWN_PYRAMIDS:
        return list(enumerate(openslide.source.levels)), []
    kept, notes = [(0, openslide.source.levels[0])], []
    with openslide.handles.borrow() as reader:
        for number, level in enumerate(openslide.source.levels[1:], start=1):
            known, finer = kept[-1]
            read = (partial(reader.read, level=number), partial(reader.read, level=known))
            verdict = compare_levels(level, read[0], finer, read[1])
            if verdict.same:
                kept.append((number, level))
            else:
                notes.append(
                    f"level {number} ({level.width} x {level.height} px) is no level: it shows something else than the "
                    f"finer ones ({verdict.words})"
                )
    return kept, notes


def _examine_pages(
    path: Path, wanted: str, scene: int | None, openslide: _Candidate | None, failures: dict[str, str]
) -> _Examined:
    """A TIFF whose pages are whole pictures: tifffile's codecs follow the judgement, others serve where they agree."""
    try:
        judged = judge_tiff(path, scene=scene)
    except ConfigError:
        raise
    except (SlideReadError, *PARSE_ERRORS) as error:
        failures["tifffile"] = str(error)
        raise no_reader(path, failures) from None
    vendor = openslide.source.vendor if openslide else judged.source.vendor
    source = replace(
        judged.source,
        vendor=judged.source.vendor if vendor == "generic-tiff" else vendor,
        mpp_candidates=judged.source.mpp_candidates + _vendor_mpp(openslide),
        bounds_level0=openslide.source.bounds_level0 if openslide else None,
    )
    judged = replace(judged, source=source)
    openers, lacking = _openers(path, judged, openslide, wanted, failures)
    opened = ((name, _opened(name, partial(opener, 1), failures)) for name, opener in openers.items())
    candidates = {name: one for name, one in opened if one is not None}
    try:
        chosen, check = _pick(candidates, failures, wanted, _empty_places(judged))
        if chosen is not None:
            _refuse_ycbcr(path, chosen)
    finally:
        for one in candidates.values():
            one.handles.close()
    if chosen is None:
        raise no_reader(path, failures)
    opener = openers[chosen.name]
    if judged.orientation != 1:
        opener = _turned(opener, judged.orientation)
        source = turned_source(source, judged.orientation)
    check += "; lower levels by tifffile" if chosen.name in lacking else ""
    pages = judged.pages if judged.orientation == 1 else ()
    return _Examined(
        chosen.name,
        opener,
        replace(source, associated=chosen.source.associated or source.associated),
        check,
        source.vendor,
        judged.notes,
        pages,
        decodes_on_gpu=judged.cucim_refusal is None and bool(pages),
    )


def _openers(
    path: Path, judged: TiffJudgement, openslide: _Candidate | None, wanted: str, failures: dict[str, str]
) -> tuple[dict[str, Callable[[int], Reader]], set[str]]:
    """How each reader that may have the file opens it, best first; what speaks against others goes to `failures`.

    On a CPU cuCIM is asked only where it is wanted by name: it fills a damaged tile with whatever the memory held, and
    some damaged files kill the process in its constructor; the codecs used here say so, and are as fast.

    The second value names those that lack lower levels, which tifffile's codecs read for them.
    """
    by_tifffile = judged.opener(path)
    openers: dict[str, Callable[[int], Reader]] = {}
    lacking = set()
    sizes = [page.size for page in judged.pages]

    def add(name: str, open_reader: Callable[[int], Reader], seen: Source) -> None:
        own = own_levels(sizes, seen)
        if own[0] != 0:
            failures[name] = f"{name}: sees another picture first"
            return
        if None in own:
            lacking.add(name)
        openers[name] = lambda threads: LevelsReader(partial(open_reader, threads), own, judged.source, by_tifffile)

    openers["tifffile"] = lambda _: by_tifffile()
    if wanted == "cucim" and judged.cucim_refusal:
        failures["cucim"] = f"cucim: {judged.cucim_refusal}"
    elif wanted == "cucim" and (cucim := _opened("cucim", partial(CucimReader, path, judged.pages), failures)):
        cucim.handles.close()
        add("cucim", lambda threads: CucimReader(path, judged.pages, read_threads=threads), cucim.source)
    if openslide is not None and judged.openslide_refusal:
        failures["openslide"] = f"openslide: {judged.openslide_refusal}"
    elif openslide is not None:
        add("openslide", lambda _: OpenSlideReader(path), openslide.source)
    return openers, lacking


def _opened(name: str, open_reader: OpenReader, failures: dict[str, str]) -> _Candidate | None:
    try:
        return _Candidate(name, open_reader)
    except SlideReadError as error:
        failures[name] = str(error)
        return None


def _turned(opener: Callable[[int], Reader], orientation: int) -> Callable[[int], Reader]:
    return lambda threads: TurnedReader(opener(threads), orientation)


def _vendor_mpp(openslide: _Candidate | None) -> tuple[Mpp, ...]:
    """OpenSlide's figure where it is the vendor's own: of a generic TIFF it is the tag's, and Aperio's is read here."""
    if openslide is None or openslide.source.vendor in ("generic-tiff", "aperio"):
        return ()
    return openslide.source.mpp_candidates


def _empty_places(judged: TiffJudgement) -> list[tuple[int, float, float]]:
    """Samples in tiles that were left out of the largest picture, the first and the last of them."""
    page, level = judged.pages[0], judged.source.levels[0]
    empty = (page.bytecounts[: page.tiles_x * page.tiles_y] == 0).nonzero()[0].tolist()
    places = []
    for tile in [*empty[:1], *empty[1:][-1:]][:_EMPTY_SAMPLES]:
        row, column = divmod(tile, page.tiles_x)
        across = column * page.tile_width / max(1, level.width - 64)
        down = row * page.tile_height / max(1, level.height - 64)
        places.append((64, min(1.0, across), min(1.0, down)))
    return places


def _decodes(candidate: _Candidate) -> bool:
    return any(candidate.sample(*sample) is not None for sample in _SAMPLES)


def _pick(
    candidates: dict[str, _Candidate], failures: dict[str, str], wanted: str, extra: list[tuple[int, float, float]]
) -> tuple[_Candidate | None, str]:
    """The first candidate that decodes its samples and is not contradicted, and how that was found out, in words."""
    notes = [_words_of("cucim", failures["cucim"])] if "cucim" in failures else []
    judge, witness = candidates.get("tifffile"), candidates.get("openslide")
    for candidate in candidates.values():
        if wanted not in ("auto", candidate.name):
            continue
        if candidate is judge:
            verdict = _judges_words(judge, witness, extra) if _decodes(judge) else None
        else:
            verdict = _check(candidate, judge, extra)
        if verdict is not None:
            return candidate, "; ".join([*notes, verdict])
        failures[candidate.name] = candidate.failure
        notes.append(_words_of(f"{candidate.name} failed", candidate.failure))
    return None, ""


def _words_of(name: str, failure: str) -> str:
    return f"{name}: {failure.partition(': ')[2] or failure}"


def _judges_words(judge: _Candidate, witness: _Candidate | None, extra: list[tuple[int, float, float]]) -> str:
    """The reader that follows the judgement has the last word; where another sees the same, or not, it is said."""
    if witness is None:
        return f"{judge.name} decodes a sample region"
    compared = _agreeing_samples(witness, judge, extra)
    if compared:
        return f"equal to {witness.name} on {compared} region{'s' if compared > 1 else ''}"
    return f"{judge.name} decodes a sample region; {_words_of(f'{witness.name} does not', witness.failure)}"


def _check(candidate: _Candidate, judge: _Candidate | None, extra: list[tuple[int, float, float]]) -> str | None:
    """Compare samples with the reader that follows the judgement; None where the candidate is not to be trusted."""
    if judge is None:
        return f"{candidate.name} decodes a sample region" if _decodes(candidate) else None
    compared = _agreeing_samples(candidate, judge, extra)
    if compared:
        return f"equal to {judge.name} on {compared} region{'s' if compared > 1 else ''}"
    # A reader that opens the file and decodes none of it says that the bytes are bad; cuCIM would not say so.
    if compared == 0:
        candidate.failure = candidate.failure or f"not confirmed by {judge.failure}"
    return None


def _agreeing_samples(candidate: _Candidate, judge: _Candidate, extra: list[tuple[int, float, float]]) -> int | None:
    """How many regions both decode to the same pixels; None at the first that differs or only the judge decodes.

    A region with a broken tile tells nothing about the candidate: some readers fill such a tile with grey and go on.
    """
    agreeing, wanted = 0, _SAMPLES_WANTED + len(extra)
    for sample in (*extra, *_SAMPLES):
        mine, theirs = candidate.sample(*sample), judge.sample(*sample)
        if theirs is None:
            continue
        if mine is None:
            if candidate.fails_by_itself:
                return None
            continue
        difference = float(np.abs(mine.astype(np.int16) - theirs).mean()) if mine.shape == theirs.shape else 255.0
        if difference > _MAX_DIFFERENCE:
            candidate.failure = (
                f"differs from {judge.name} by {figure(difference, _MAX_DIFFERENCE, digits=2)} grey levels"
            )
            return None
        agreeing += 1
        if agreeing == wanted:
            break
    return agreeing
