"""What a TIFF file is, by its own tags and a look at its pixels, before any reader is trusted with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from muse_core.errors import SlideReadError
from muse_core.images.jpeg_colours import JpegColours
from muse_core.images.orientation import TURNS
from muse_core.images.pixels import Pixels
from muse_core.slide.cucim_reader import cucim_refusal
from muse_core.slide.file_state import FileState
from muse_core.slide.info import Level
from muse_core.slide.page_pixels import codec_name, colours_name, page_colours, refusal_of
from muse_core.slide.pictures import find_pictures
from muse_core.slide.reader import Corner, Source
from muse_core.slide.same_picture import Verdict, compare_levels
from muse_core.slide.tiff_mpp import mpp_candidates
from muse_core.slide.tiff_pages import RGB, YCBCR, TiffFacts, TiffPage, read_tiff_facts
from muse_core.slide.tifffile_reader import TifffileReader

_KEPT = 8  # judgements that stay in memory: a slide is opened once a piece of work


@dataclass(frozen=True)
class TiffJudgement:
    """What was concluded of a file.

    Attributes:
        facts: what its tags say.
        pages: the page of each level, finest first.
        source: levels as they are stored (not turned), without padding; figures of µm/px; names of other images.
        orientation: how the stored picture is turned, TIFF tag value 1 to 8.
        cucim_refusal: why cuCIM must not be given the file; None where it may.
        openslide_refusal: the same for OpenSlide, which opens it in any case.
        notes: what was concluded and why, a sentence each.
    """

    facts: TiffFacts
    pages: tuple[TiffPage, ...]
    source: Source
    orientation: int
    cucim_refusal: str | None
    openslide_refusal: str | None
    notes: tuple[str, ...]

    def opener(self, path: Path) -> Callable[[], TifffileReader]:
        """Opens a reader that follows the judgement by construction."""
        return partial(TifffileReader, path, self.pages, self.source, self.facts)


def judge_tiff(path: Path, *, scene: int | None) -> TiffJudgement:
    """Judge a TIFF whose pages are whole pictures; those of the last files stay in memory.

    Args:
        path: the file.
        scene: which of several pictures, 1 for the first in the file; None for the largest.

    Raises:
        PARSE_ERRORS: its tags make no sense.
        SlideReadError: none of its pictures can be converted to RGB, with the reason.
        ConfigError: there are not so many scenes.
    """
    return _judge(path, FileState.of(path), scene)


@lru_cache(maxsize=_KEPT)
def _judge(path: Path, _: FileState, scene: int | None) -> TiffJudgement:
    facts = read_tiff_facts(path)
    found = find_pictures(facts, partial(_compare, path, facts), scene=scene)
    main = found.pages[0]
    if refusal := refusal_of(main):
        raise SlideReadError(f"page {main.name} {refusal}")
    colours = page_colours(main, path)
    contradicted = colours is not None and colours.colours != _by_tag(main)
    unlike = _unlike_the_tags(main, colours, contradicted=contradicted)
    notes = [*found.notes, *_pixel_notes(main, colours, contradicted=contradicted)]
    return TiffJudgement(
        facts=facts,
        pages=found.pages,
        source=Source(
            vendor=facts.kind,
            levels=found.levels,
            mpp_candidates=mpp_candidates(facts, main),
            associated=tuple(sorted(set(facts.names.values()))),
        ),
        orientation=main.orientation if main.orientation in range(1, 9) else 1,
        cucim_refusal=unlike or cucim_refusal(facts, found.pages),
        openslide_refusal=unlike,
        notes=tuple(notes),
    )


def _compare(path: Path, facts: TiffFacts, coarse: TiffPage, as_level: Level, fine: TiffPage, finer: Level) -> Verdict:
    """Whether a page shows the same as a finer one; a page that cannot be converted does not count as the same."""
    for page in (coarse, fine):
        if refusal := refusal_of(page):
            return Verdict(same=False, score=0.0, words=f"page {page.name} {refusal}")
    source = Source("tiff", (as_level, finer), ())
    reader = TifffileReader(path, [coarse, fine], source, facts)

    def read(level: int, corner: Corner, width: int, height: int) -> Pixels:
        return reader.read(corner, width, height, level=level)

    try:
        return compare_levels(as_level, partial(read, 0), finer, partial(read, 1))
    finally:
        reader.close()


def _by_tag(page: TiffPage) -> str:
    return {RGB: "rgb", YCBCR: "ycbcr"}.get(page.photometric, "other")


def _unlike_the_tags(page: TiffPage, colours: JpegColours | None, *, contradicted: bool) -> str | None:
    """Why a reader that goes by the tags alone, tile by tile, would show something else; None where it would not."""
    if page.orientation in TURNS:
        return f"would not turn the picture as a whole (orientation {page.orientation})"
    if contradicted and colours is not None:
        return f"would take the tag's word for the colours ({colours_name(page)}), not that of the {colours.by}"
    if page.photometric not in (RGB, YCBCR) or page.extra_samples or not page.is_plain:
        planes = "" if page.is_plain else " in planes"
        return f"is not trusted with {page.channels} channels of {colours_name(page)}{planes}"
    return None


def _pixel_notes(page: TiffPage, colours: JpegColours | None, *, contradicted: bool) -> list[str]:
    stored = (
        f"{page.tile_width} x {page.tile_height} px tiles" if page.is_tiled else f"strips of {page.tile_height} rows"
    )
    planes = "" if page.is_plain else " in planes"
    notes = [f"stored as {codec_name(page)} in {stored}, {colours_name(page)}{planes}"]
    if contradicted and colours is not None:
        notes.append(f"its JPEG is {colours.colours} by its {colours.by}, whatever the tag says")
    if page.photometric not in (RGB, YCBCR):
        notes.append(f"{colours_name(page)} is converted to RGB")
    if page.orientation in TURNS:
        notes.append(
            f"the stored picture is {TURNS[page.orientation]} (orientation {page.orientation}) and read upright"
        )
    if page.has_empty_segments:
        empty = int((page.bytecounts == 0).sum())
        notes.append(f"{empty} of {page.bytecounts.size} tiles were left out and read as white glass")
    return notes
