"""What people say about nuclei, as sent and as kept: classes, areas, tissue, and what takes any of it back."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from muse_core.config import Settings

MOST_PX = 2**20  # level-0 px along a side; no slide is wider
_MOST_POINTS = 100_000  # of one outline, and dots of one area

SlideId = Annotated[str, StringConstraints(min_length=1, max_length=500)]
ClassName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Px = Annotated[float, Field(ge=0, lt=MOST_PX, allow_inf_nan=False)]
Ring = Annotated[list[tuple[Px, Px]], Field(min_length=3, max_length=_MOST_POINTS)]
Rings = Annotated[list[Ring], Field(min_length=1, max_length=1000)]  # the outline, then holes


class NucleusMark(Settings):
    """What one nucleus is.

    Attributes:
        slide_id: its slide.
        x, y: where it is, level-0 px.
        class_name: its class; None where there is no nucleus.
        was: the class it had before, by a model or a person; None where there was no nucleus.
        reach_um: ground around it that is known to hold no other nucleus.
    """

    kind: Literal["nucleus"] = "nucleus"
    slide_id: SlideId
    x: Px
    y: Px
    class_name: ClassName | None
    was: ClassName | None = None
    reach_um: float = Field(6.0, gt=0, le=6)


class AreaMark(Settings):
    """An area that somebody drew.

    Attributes:
        slide_id: its slide.
        rings: its outline and holes, level-0 px.
        name: what it is called.
        whole: whether every nucleus in it is labelled.
        dots: those nuclei as (x, y, class), where it is.
    """

    kind: Literal["area"] = "area"
    slide_id: SlideId
    rings: Rings
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    whole: bool = False
    dots: Annotated[tuple[tuple[Px, Px, ClassName], ...], Field(max_length=_MOST_POINTS)] = ()


class TissueMark(Settings):
    """The tissue of a slide, edited: polygons of level-0 px, each its outline and holes."""

    kind: Literal["tissue"] = "tissue"
    slide_id: SlideId
    polygons: Annotated[list[Rings], Field(max_length=1000)]


class UndoMark(Settings):
    """The entry of this number is taken back; an undo itself can be taken back, too."""

    kind: Literal["undo"] = "undo"
    slide_id: SlideId
    of: int = Field(ge=1)


Mark = Annotated[NucleusMark | AreaMark | TissueMark | UndoMark, Field(discriminator="kind")]


class SentMark(Settings):
    """A mark as a page sends it: its own id lets it be sent again without being counted twice."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    mark: Mark


class Entry(Settings):
    """A mark as it is kept.

    Attributes:
        n: number of the entry, from 1.
        at: when, ISO 8601 in UTC.
        who: whose it is.
        id: of the page that sent it.
        mark: what was said.
    """

    n: int
    at: str
    who: str
    id: str
    mark: Mark


def in_force(entries: list[Entry]) -> list[Entry]:
    """The entries that are not taken back, in their order, undos left out."""
    gone: set[int] = set()
    for entry in reversed(entries):  # the last word counts: an undo that is itself undone takes nothing back
        if isinstance(entry.mark, UndoMark) and entry.n not in gone:
            gone.add(entry.mark.of)
    return [entry for entry in entries if entry.n not in gone and not isinstance(entry.mark, UndoMark)]
