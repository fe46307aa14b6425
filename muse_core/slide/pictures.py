"""Which pages of a TIFF are the slide: the largest picture, and the levels that show the same at a smaller scale."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from muse_core.errors import ConfigError, SlideReadError, figure
from muse_core.slide.info import Level
from muse_core.slide.reader import make_levels
from muse_core.slide.same_picture import Verdict
from muse_core.slide.tiff_pages import GREY, RGB, TiffFacts, TiffPage

_SCENE_PART = 0.1  # of the largest picture's area: so large another is worth a word
_OTHER_PICTURES = ("label", "macro", "thumbnail", "overview", "map", "slide preview", "preview", "barcode")
_SAID_TO_BE = re.compile(rf"({'|'.join(_OTHER_PICTURES)})(?![a-z])")
_SHORT_WORDS = 60  # a longer description tells of something else
_FACTORS = (
    *(2**power for power in range(1, 13)),
    *(one for one in range(3, 65) if one & (one - 1)),
)  # usual ones first
_SURE = 0.9  # a score from which no other guess of the scale is looked at
_BANDS = 3  # of a colour picture
_REDUCED = 1  # the bit of the TIFF tag NewSubfileType that says so
_LEAST_SIDE_PX = 8  # a smaller picture shows nothing that could be compared
_PRIMARIES = {
    "red": ("r", "red", -16776961, 0xFF0000FF),
    "green": ("g", "green", 16711935, 0x00FF00FF),
    "blue": ("b", "blue", 65535, 0x0000FFFF),
}

Compare = Callable[[TiffPage, Level, TiffPage, Level], Verdict]


@dataclass(frozen=True)
class Pictures:
    """What was found in a file.

    Attributes:
        pages: the page of each level, finest first.
        levels: their sizes without padding, and scales.
        scenes: pages of the pictures among which this one was chosen, in file order.
        notes: what was concluded and why, a sentence each.
    """

    pages: tuple[TiffPage, ...]
    levels: tuple[Level, ...]
    scenes: tuple[str, ...]
    notes: tuple[str, ...]


def find_pictures(facts: TiffFacts, compare: Compare, *, scene: int | None) -> Pictures:
    """Judge the pages of a file.

    Args:
        facts: what its tags say.
        compare: tells whether a page shows the same as a finer one, each given with the level that it may be.
        scene: which of several pictures, 1 for the first in the file; None for the largest.

    Raises:
        SlideReadError: the file has no picture that can be the slide.
        ConfigError: there are not so many scenes.
    """
    pages = _with_merged_channels(facts)
    named = {page.name: word for page in pages if (word := _other_name(facts, page))}
    candidates = _largest_first([one for one in pages if one.name not in named] or pages)
    if not candidates:
        raise SlideReadError("it has no page")
    scenes, found = _scenes(candidates, compare)
    order = [page.name for page in pages]
    numbered = sorted(scenes, key=lambda one: order.index(one.name))
    main = _chosen(scenes, numbered, scene)
    if scene is None:
        _refuse_bands(facts, scenes)
    notes = [_about_main(main, len(facts.pages)), *found[main.name].notes]
    if len(scenes) > 1:
        notes.append(_about_scenes(main, numbered, _stack_words(facts, main)))
    elif words := _stack_words(facts, main):
        notes.append(words)
    notes += [f"page {name} ({_size(facts.page(name))}) is the {word}" for name, word in named.items()]
    chosen = found[main.name]
    return Pictures(chosen.pages, chosen.levels, tuple(one.name for one in numbered), tuple(notes))


def _largest_first(pages: Sequence[TiffPage]) -> list[TiffPage]:
    """Pages that may be the slide; those flagged as a smaller copy of another come last, however large they are.

    A macro photograph may have more pixels than a small slide. Where nothing else is of any size, the flag is wrong.
    """

    def area(page: TiffPage) -> int:
        return page.width * page.height

    most = max((area(page) for page in pages), default=0)
    own = [page for page in pages if not page.subfiletype & _REDUCED and area(page) >= _SCENE_PART * most]
    return sorted(pages, key=lambda page: (bool(own) and page.subfiletype & _REDUCED, -area(page)))


@dataclass(frozen=True)
class _Pyramid:
    pages: tuple[TiffPage, ...]
    levels: tuple[Level, ...]
    notes: tuple[str, ...]


def _scenes(candidates: list[TiffPage], compare: Compare) -> tuple[list[TiffPage], dict[str, _Pyramid]]:
    """The pictures, largest first, each with the levels found for it; what is small and no level is left out."""
    least = _SCENE_PART * candidates[0].width * candidates[0].height
    left, scenes, found = list(candidates), [], {}
    while large := [page for page in left if page.width * page.height >= least]:
        main = large[0]
        rest = [page for page in left if page is not main]
        pyramid = _pyramid(main, sorted(rest, key=lambda one: -one.width * one.height), compare)
        used = {page.name for page in pyramid.pages}
        left = [page for page in rest if page.name not in used]
        scenes.append(main)
        found[main.name] = pyramid
    return scenes, found


def _refuse_bands(facts: TiffFacts, scenes: list[TiffPage]) -> None:
    """Three grey pages of one size may be red, green and blue: the first alone is not to be taken for the slide.

    Raises:
        SlideReadError: that is what there is, and the format has no word for what the pages are.
    """
    greys = [page for page in scenes if page.channels == 1 and page.photometric == GREY and page.size == scenes[0].size]
    if len(scenes) == len(greys) == _BANDS and not _stack_words(facts, scenes[0]):
        raise SlideReadError(
            f"it holds three grey pages of {_size(scenes[0])}, which may be red, green and blue apart or planes of a "
            "stack; save it as RGB, or choose the plane that is meant with scene"
        )


def _chosen(scenes: list[TiffPage], numbered: list[TiffPage], scene: int | None) -> TiffPage:
    if scene is None:
        return scenes[0]
    if not 1 <= scene <= len(numbered):
        many = f"{len(numbered)} scenes, 1 to {len(numbered)}" if len(numbered) > 1 else "one scene only"
        raise ConfigError(f"scene {scene} is not in the file, which has {many}")
    return numbered[scene - 1]


def _pyramid(main: TiffPage, others: Sequence[TiffPage], compare: Compare) -> _Pyramid:
    """The main page and those of the others that are its levels."""
    pages, levels, notes = [main], [_whole(main)], []
    for page in others:
        if page.size == main.size or (page.width > main.width and page.height > main.height):
            continue
        level, words = _as_level(pages, levels, page, compare)
        if level is not None:
            pages.append(page)
            levels.append(level)
        if words:
            notes.append(words)
    return _Pyramid(tuple(pages), tuple(levels), tuple(notes))


def _as_level(pages: list[TiffPage], levels: list[Level], page: TiffPage, compare: Compare) -> tuple[Level | None, str]:
    """The page as the next level, or None; and what is to be said of it."""
    main = pages[0]
    what = f"page {page.name} ({_size(page)})"
    if min(page.size) < _LEAST_SIDE_PX:
        return None, ""
    if "." not in page.name and page.is_tiled != main.is_tiled:
        return None, f"{what} is no level: stored in {'tiles' if page.is_tiled else 'strips'}, unlike page {main.name}"
    fits = [fit for fit in fits_of(main, page) if fit.width < levels[-1].width or fit.height < levels[-1].height]
    if not fits:
        across, down = main.width / page.width, main.height / page.height
        x, y = figure(across, down, digits=5), figure(down, across, digits=5)
        return None, f"{what} is no level: {x} times smaller across and {y} times down"
    verdict, level = _best(page, fits, pages[-1], levels[-1], compare)
    if not verdict.same:
        return None, f"{what} is no level: it shows something else than page {pages[-1].name} ({verdict.words})"
    if (level.width, level.height) != page.size:
        return level, f"{what} is padded to whole tiles: the picture ends at {level.width} x {level.height} px"
    return level, ""


def _best(
    page: TiffPage, fits: list[Level], finer_page: TiffPage, finer: Level, compare: Compare
) -> tuple[Verdict, Level]:
    """The guess that the pixels speak for most, and what they say of it."""
    best = (compare(page, fits[0], finer_page, finer), fits[0])
    for fit in fits[1:]:
        if best[0].same and best[0].score > _SURE:
            break
        verdict = compare(page, fit, finer_page, finer)
        if (verdict.same, verdict.score) > (best[0].same, best[0].score):
            best = (verdict, fit)
    return best


def fits_of(main: TiffPage, page: TiffPage) -> list[Level]:
    """The ways in which a page may be the main one made smaller: by a whole number, by one and padded, by a ratio."""
    found = [*_exact_fits(main, page), *_padded_fits(main, page)]
    if not any((fit.width, fit.height) == page.size for fit in found):
        found += _ratio_fits(main, page)
    return found


def _exact_fits(main: TiffPage, page: TiffPage) -> Iterator[Level]:
    factor = round(max(main.width / page.width, main.height / page.height))
    for one in {factor - 1, factor, factor + 1}:
        if one >= 2 and _shrinks_to(main.width, one, page.width) and _shrinks_to(main.height, one, page.height):
            yield _level(page, page.width, page.height, float(one), float(one))


def _shrinks_to(length: int, factor: int, shrunk: int) -> bool:
    return math.floor(length / factor) <= shrunk <= math.ceil(length / factor)


def _padded_fits(main: TiffPage, page: TiffPage) -> Iterator[Level]:
    """Where the page is whole tiles and the main one, made smaller, would end inside the last of them.

    A main page of whole tiles may be padded itself: its picture then ends anywhere in its last tiles.
    """
    if not page.is_tiled or page.width % page.tile_width or page.height % page.tile_height:
        return
    spare = _may_be_padding(main)
    for factor in _FACTORS:
        width, height = main.width / factor, main.height / factor
        if min(width, height) < 1:
            continue
        across = _pads_to(main.width - spare[0], main.width, factor, page.tile_width, page.width)
        down = _pads_to(main.height - spare[1], main.height, factor, page.tile_height, page.height)
        whole = _shrinks_to(main.width, factor, page.width) and _shrinks_to(main.height, factor, page.height)
        if across and down and not whole:
            # Down to whole pixels: the last one may be half padding.
            ends = min(int(width), page.width), min(int(height), page.height)
            yield _level(page, *ends, float(factor), float(factor))


def _may_be_padding(main: TiffPage) -> tuple[int, int]:
    """How many px of a page's width and height may be padding of its own: less than a tile, where it is whole tiles."""
    if not main.is_tiled or main.width % main.tile_width or main.height % main.tile_height:
        return 0, 0
    return main.tile_width - 1, main.tile_height - 1


def _pads_to(least: int, most: int, factor: int, tile: int, padded: int) -> bool:
    """Whether some length between two, made smaller and rounded either way, takes so many px in whole tiles."""
    low, high = math.floor(least / factor), math.ceil(most / factor - 1e-6)
    return math.ceil(low / tile) * tile <= padded <= math.ceil(high / tile) * tile


def _ratio_fits(main: TiffPage, page: TiffPage) -> Iterator[Level]:
    """Where one scale explains both sides to within the pixel that rounding may cost."""
    low = max(main.width / (page.width + 1), main.height / (page.height + 1))
    high = min(main.width / max(page.width - 1, 0.5), main.height / max(page.height - 1, 0.5))
    if low <= high and high > 1:
        yield _level(page, page.width, page.height, main.width / page.width, main.height / page.height)


def _level(page: TiffPage, width: int, height: int, downsample_x: float, downsample_y: float) -> Level:
    tile = (page.tile_width, page.tile_height) if page.is_tiled else (0, 0)
    return Level(width, height, downsample_x, downsample_y, *tile)


def _whole(page: TiffPage) -> Level:
    tile = (page.tile_width, page.tile_height) if page.is_tiled else (0, 0)
    return make_levels([page.size], [tile])[0]


def _other_name(facts: TiffFacts, page: TiffPage) -> str:
    """What a page is in the format's words where it is not the slide: label, macro, ...; "" where it may be."""
    words = facts.names.get(page.name, "") or page.description.strip().lower()
    found = _SAID_TO_BE.match(words) if len(words) <= _SHORT_WORDS else None
    return found.group(1) if found else ""


def _about_main(main: TiffPage, pages: int) -> str:
    of = f"the largest of {pages} pages" if pages > 1 else "the only page"
    return f"the slide is page {main.name}, {_size(main)}, {of}"


def _about_scenes(main: TiffPage, numbered: list[TiffPage], stack: str) -> str:
    number = 1 + [one.name for one in numbered].index(main.name)
    if stack:
        return stack
    if all(one.size == main.size for one in numbered):
        return (
            f"{len(numbered)} pages are of this size, planes of a stack or scans of several sections: number {number} "
            "is taken; choose another with scene"
        )
    sizes = ", ".join(f"{at} page {one.name} ({_size(one)})" for at, one in enumerate(numbered[:6], start=1))
    return f"{len(numbered)} scenes: {sizes}; number {number} is taken; choose another with scene"


def _stack_words(facts: TiffFacts, main: TiffPage) -> str:
    """What the format says of planes in focus or time, in words; "" where it knows of none."""
    series = next((one for one in facts.series if main.name.split("+")[0] in one.pages), None)
    if series is None:
        return ""
    stacked = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=False) if axis in "ZT"]
    stacked = [(axis, length) for axis, length in stacked if length > 1]
    if not stacked:
        return ""
    at = series.pages.index(main.name.split("+")[0])
    words = " and ".join(f"{length} planes in {'focus (z)' if axis == 'Z' else 'time'}" for axis, length in stacked)
    return f"{words}: plane {at + 1} of {len(series.pages)} is taken; choose another with scene"


def _with_merged_channels(facts: TiffFacts) -> tuple[TiffPage, ...]:
    """The pages, those joined that hold red, green and blue apart.

    Raises:
        SlideReadError: channels lie apart, and nothing says that they are red, green and blue.
    """
    apart = next((one for one in facts.series if "C" in one.axes and "S" not in one.axes), None)
    if apart is None or facts.kind not in ("ome-tiff", "imagej-tiff"):
        return facts.pages
    channels = apart.shape[apart.axes.index("C")]
    if channels == 1:
        return facts.pages
    places = _places_of_primaries(facts.ome_xml) if channels == 3 else None
    if places is None or apart.axes[0] != "C" or len(apart.pages) != 3:
        raise SlideReadError(
            f"it holds {channels} channels apart (axes {apart.axes}), as fluorescence does, and does not name them "
            "red, green and blue; save it as RGB"
        )
    tops = [facts.page(apart.pages[at]) for at in places]
    below = [[one for one in facts.pages if one.name.startswith(f"{top.name}.")] for top in tops]
    groups = [tops, *(list(group) for group in zip(*below, strict=False))]
    return tuple(_merged(group) for group in groups)


def _merged(channels: Sequence[TiffPage]) -> TiffPage:
    """Pages of red, green and blue as one page in planes."""
    first = channels[0]
    if any(page.size != first.size or page.channels != 1 or page.photometric != GREY for page in channels):
        raise SlideReadError("its red, green and blue are not of one kind; save it as RGB")
    return replace(
        first,
        name="+".join(page.name for page in channels),
        channels=3,
        planes=3,
        photometric=RGB,
        offsets=np.concatenate([page.offsets for page in channels]),
        bytecounts=np.concatenate([page.bytecounts for page in channels]),
    )


def _places_of_primaries(ome_xml: str) -> tuple[int, int, int] | None:
    """At which channels of the first image red, green and blue lie, by their names or colours; None where unsaid."""
    try:
        # The file's own metadata: the standard parser resolves no external entities.
        root = ElementTree.fromstring(ome_xml)  # noqa: S314
    except ElementTree.ParseError:
        return None
    pixels = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), None)
    channels = [one for one in pixels if one.tag.rpartition("}")[2] == "Channel"] if pixels is not None else []
    places = []
    for words in _PRIMARIES.values():
        at = [index for index, one in enumerate(channels) if _is_primary(one, words)]
        if len(at) != 1:
            return None
        places.append(at[0])
    return places[0], places[1], places[2]


def _is_primary(channel: ElementTree.Element, words: tuple[str, str, int, int]) -> bool:
    name, colour = channel.get("Name", "").strip().lower(), channel.get("Color", "").strip()
    if name:
        return name in words[:2]
    return colour.lstrip("-").isdigit() and int(colour) in words[2:]


def _size(page: TiffPage) -> str:
    return f"{page.width} x {page.height} px"
