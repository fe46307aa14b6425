"""Several runs over one output, on as many machines: each slide is one run's, and a run that died gives its slides up.

    OUT/.sharing/session.json                  its id; gone once the last run has left
    OUT/.sharing/members/RUN.json              a run, rewritten every ten seconds
    OUT/.sharing/claims-ID/SLIDE.000001.json   whose a slide is; the highest number counts
    OUT/.sharing/claims-ID/SLIDE.done.json     what became of it is on record

A claim is taken by creating a file, which one run can do. Nobody compares clocks: a run whose file has not changed for
a minute of the onlooker's own time is gone, and whoever comes by creates the next number. A run that was only held up
finds that number before it commits, and leaves the slide alone.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TypeVar

from muse_core.cohort.heartbeat import SILENT_S, WATCH_S, RunFacts
from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.shelf import Shelf
from muse_core.errors import OutputError
from muse_core.machine.files import safe_name

logger = logging.getLogger(__name__)

FOLDER = ".sharing"
LOOK_EVERY_S = 2.0
_SESSION = f"{FOLDER}/session.json"
_MEMBERS = f"{FOLDER}/members"

Row = TypeVar("Row", bound=ManifestRow)


class SlideTakenError(OutputError):
    """This run was silent for so long that another one has taken a slide over."""

    default_reason = "output_lost"


class Members:
    """The runs that share a folder, and which of them live.

    Args:
        shelf: of the folder.
        clock: seconds of this machine that only grow.
    """

    def __init__(self, shelf: Shelf, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf = shelf
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}  # by run: its file's state, and since when that is so
        self._facts: dict[str, RunFacts | None] = {}

    def look(self) -> None:
        """See who gave a sign of life since the last look."""
        now, states = self._clock(), self._shelf.states(_MEMBERS)
        found = {_run_of(name): state for name, state in states.items()}
        for run, state in found.items():
            if self._seen.get(run, ("", now))[0] != state:
                self._seen[run] = (state, now)
                self._facts.pop(run, None)
        self._seen = {run: seen for run, seen in self._seen.items() if run in found}

    def lives(self, run: str) -> bool:
        """Whether a run was there at the last look, and not silent for long before."""
        if run not in self._seen:
            return False
        facts = self.facts(run)
        return self._clock() - self._seen[run][1] < SILENT_S and not (facts is not None and facts.is_gone())

    def facts(self, run: str) -> RunFacts | None:
        """What a run says of itself."""
        if run not in self._facts:
            self._facts[run] = _facts_of(self._shelf.read(f"{_MEMBERS}/{run}.json"))
        return self._facts[run]

    def all(self) -> list[str]:
        """Every run that was there at the last look."""
        return sorted(self._seen)


def members_of(shelf: Shelf) -> list[RunFacts]:
    """Every run that shares a folder, or was cut off there, by when it began."""
    found = (_facts_of(shelf.read(name)) for name in sorted(shelf.names(_MEMBERS)))
    return sorted((one for one in found if one is not None), key=lambda one: one.started)


def clear_dead(shelf: Shelf, wait: Callable[[float], None] = time.sleep) -> list[str]:
    """Of a locked folder, take away what runs that shared it left, if none of them lives; files of slides in work.

    Args:
        shelf: of the folder.
        wait: waits for so many seconds.

    Returns:
        The slides, by their safe names, that were in work when those runs died; empty where some run lives.

    Raises:
        OutputError: a run that shares the folder works there (reason output_locked).
    """
    before = shelf.states(_MEMBERS)
    facts = [_facts_of(shelf.read(name)) for name in before]
    silent = [one for one in facts if one is None or not one.is_gone()]
    living = next((one for one in facts if one is not None and one.lives(time.time())), None)
    if living is None and silent:
        wait(WATCH_S)
        if shelf.states(_MEMBERS) != before:
            living = next((one for one in facts if one is not None), None)
    if living is not None or (silent and shelf.states(_MEMBERS) != before):
        who = f" (process {living.pid} on {living.host}, {living.command})" if living is not None else ""
        raise OutputError(
            f"another run{who} shares this folder; start this one with --share too, or wait for it to end",
            reason="output_locked",
        )
    left = shelf.names(FOLDER)
    shelf.delete(sorted(left))
    return _in_work(left)


class Sharing:
    """This run's part in sharing a folder: `join`, then `claimed`, and `leave`.

    Args:
        shelf: of the folder.
        place: the folder as people name it.
        clock: seconds of this machine that only grow.
    """

    def __init__(self, shelf: Shelf, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.run = secrets.token_hex(8)
        self.session = ""
        self.is_first = False  # nobody else was there when it joined
        self.suspects: set[str] = set()  # safe names of slides that were in work when a run died
        self._shelf = shelf
        self._place = place
        self._clock = clock
        self._members = Members(shelf, clock)
        self._mine: dict[str, int] = {}  # safe names of slides and the number of this run's claim
        self._owners: dict[str, str] = {}  # by claim
        self._names: set[str] = set()
        self._highest: dict[str, int] = {}
        self._listed_at = -1e9

    @property
    def member_file(self) -> str:
        """This run's file, below the folder."""
        return f"{_MEMBERS}/{self.run}.json"

    def join(self, facts: RunFacts, wait: Callable[[float], None] = time.sleep) -> None:
        """Become one of the runs of a folder that is locked for this call.

        Raises:
            OutputError: the folder cannot be read or written.
        """
        try:
            self.suspects |= set(clear_dead(self._shelf, wait))
            self.is_first = True
        except OutputError as error:
            if error.reason != "output_locked":
                raise
        known = self._shelf.read(_SESSION)
        self.session = secrets.token_hex(4) if known is None else str(json.loads(known)["session"])
        if known is None:
            self._shelf.write(_SESSION, json.dumps({"session": self.session}).encode())
        self.beat(facts)

    def beat(self, facts: RunFacts) -> None:
        """Give a sign of life.

        Raises:
            OutputError: the folder cannot be written.
        """
        text = json.dumps({**asdict(facts), "beat": time.time()})
        self._shelf.write(self.member_file, text.encode())

    def agree(self, rules: str) -> None:
        """Make sure that all who share the folder make the same rows of a slide; this run has said what it follows.

        Raises:
            OutputError: another run follows other rules (reason output_mixed).
        """
        self._members.look()
        for run in self._members.all():
            other = self._members.facts(run)
            if run != self.run and other is not None and other.rules not in ("", rules) and self._members.lives(run):
                raise OutputError(
                    f"{self._place}: process {other.pid} on {other.host} shares this folder with other settings or "
                    "weights; give the same to all, or another --out",
                    reason="output_mixed",
                )

    def leave(self) -> bool:
        """Go, from a folder that is locked for this call; the last one takes everything along.

        Returns:
            Whether nobody else is there.

        Raises:
            OutputError: the folder cannot be written.
        """
        self._shelf.delete([self.member_file])
        self._members.look()
        if not self._is_on() or any(self._members.lives(run) for run in self._members.all()):
            return False
        self._shelf.delete(sorted(self._shelf.names(FOLDER)))
        return True

    def claimed(self, rows: Iterable[Row]) -> Iterator[Row | None]:
        """Rows as they become this run's to do; None where there is none for now; the end when all are on record.

        Raises:
            OutputError: the folder cannot be read or written, or was taken over (reason output_lost).
        """
        waiting = list(rows)
        while waiting:
            self._look()
            left = []
            for row in waiting:
                slide = safe_name(row.slide_id)
                if self._is_done(slide):
                    continue
                left.append(row)
                if self._take(slide):
                    yield row
            waiting = left
            if waiting:
                yield None

    def check(self, slide_id: str) -> None:
        """Make sure that a slide is this run's still, before what the folder holds of it is changed.

        Raises:
            SlideTakenError: it is not.
        """
        slide = safe_name(slide_id)
        number = self._mine.get(slide, 0)
        if not (number and self._is_on() and self._shelf.state(self._claim(slide, number + 1)) is None):
            self._mine.pop(slide, None)
            raise SlideTakenError(f"{slide_id}: this run was silent for so long that another one does it now")

    def done(self, slide_id: str) -> None:
        """What became of a slide is on record."""
        self._shelf.write(self._done(safe_name(slide_id)), self.run.encode())

    def _is_on(self) -> bool:
        known = self._shelf.read(_SESSION)
        return known is not None and json.loads(known)["session"] == self.session

    def _look(self) -> None:
        if not self._is_on():
            raise OutputError(
                f"{self._place}: this run was silent for so long that another one has taken over; it goes on from what "
                "is done, nothing is to be mended",
                reason="output_lost",
            )
        self._members.look()
        self._names = self._shelf.names(self._claims)
        self._highest = {}
        for name in self._names:
            slide, number = _parts_of(name)
            self._highest[slide] = max(number, self._highest.get(slide, 0))
        self._listed_at = self._clock()

    def _is_done(self, slide: str) -> bool:
        return self._done(slide) in self._names

    def _take(self, slide: str) -> bool:
        """Whether a slide has become this run's now."""
        highest = self._highest.get(slide, 0)
        if highest and (self._mine.get(slide) == highest or self._members.lives(self._owner(slide, highest))):
            return False
        number = highest + 1
        if not self._shelf.create(self._claim(slide, number), json.dumps({"by": self.run}).encode()):
            if self._clock() - self._listed_at > LOOK_EVERY_S:
                self._look()  # others are ahead; not each of their slides is to be tried in vain
            return False
        if highest:
            logger.warning("%s: taken over from a run that is gone", slide)
            self.suspects.add(slide)
        self._mine[slide] = number
        return True

    def _owner(self, slide: str, number: int) -> str:
        claim = self._claim(slide, number)
        if claim not in self._owners:
            self._owners[claim] = str(json.loads(self._shelf.read(claim) or b"{}").get("by", ""))
        return self._owners[claim]

    @property
    def _claims(self) -> str:
        return f"{FOLDER}/claims-{self.session}"

    def _claim(self, slide: str, number: int) -> str:
        return f"{self._claims}/{slide}.{number:06d}.json"

    def _done(self, slide: str) -> str:
        return f"{self._claims}/{slide}.done.json"


def _run_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


def _parts_of(claim: str) -> tuple[str, int]:
    """A claim's slide, and its number; 0 for what says that it is done."""
    slide, _, number = claim.rpartition("/")[2].removesuffix(".json").rpartition(".")
    return slide, int(number) if number.isdigit() else 0


def _in_work(names: Iterable[str]) -> list[str]:
    claims = [_parts_of(name) for name in names if name.startswith(f"{FOLDER}/claims-")]
    done = {slide for slide, number in claims if not number}
    return sorted({slide for slide, _ in claims} - done)


def _facts_of(data: bytes | None) -> RunFacts | None:
    try:
        return RunFacts(**json.loads(data or b"{}"))
    except (TypeError, ValueError):
        return None
