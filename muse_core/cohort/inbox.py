"""A folder that others put slides into: what has arrived whole, what failed and when it is tried again, what is news.

`OUT/inbox.json` remembers it from run to run; who writes it holds the output folder's lock.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from muse_core.cohort.acquire import local_path
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.uris import public_uri
from muse_core.machine.files import whole_file
from muse_core.slide.file_set import state_of_slide

FIRST_PAUSE_S = 3600.0  # after a failure; each further one doubles it
LONGEST_PAUSE_S = 86400.0


@dataclass(frozen=True)
class Seen:
    """A slide's files as they were looked at: what changes when one of them does, and since when that is the same."""

    state: str
    since: float  # seconds since 1970


@dataclass(frozen=True)
class Quarantined:
    """A slide that failed.

    Attributes:
        state: of its files then, its row and what else it was done with; when one of them changes it is tried at once,
            as new. '' for one that could not be begun.
        reason, message: why.
        tries: how often it failed so.
        next_try: seconds since 1970.
    """

    state: str
    reason: str
    message: str
    tries: int
    next_try: float


@dataclass
class Inbox:
    """What is known of a watched folder.

    Attributes:
        path: where it is kept.
        now: the time of this look, seconds since 1970.
        seen: by URI.
        quarantine: by slide id.
    """

    path: Path
    now: float
    seen: dict[str, Seen] = field(default_factory=dict)
    quarantine: dict[str, Quarantined] = field(default_factory=dict)
    _asked: dict[str, str] = field(default_factory=dict)  # by slide id what each is to be done with now

    def due(self, manifest: Manifest, *, settled_s: float, depends_on: Sequence[str] = ()) -> Manifest:
        """The slides to work on now: those that have settled, but for those that failed lately.

        Args:
            manifest: all that lies there; objects of a store with their versions.
            settled_s: a slide has settled when two looks at least so many seconds apart found all of its files the
                same, size and times; 0 takes what is there.
            depends_on: hashes of the settings and models that slides are done with.
        """
        states = {public_uri(row.uri): _state_of(row) for row in manifest.rows}
        self.seen = {uri: self._look(uri, state) for uri, state in states.items()}
        self._asked = {
            row.slide_id: _hashed([states[public_uri(row.uri)], row.md5, row.version, row.mpp, row.scene, *depends_on])
            for row in manifest.rows
        }
        self.quarantine = {
            slide_id: one for slide_id, one in self.quarantine.items() if slide_id in self._asked or not one.state
        }
        rows = tuple(row for row in manifest.rows if self._has_settled(row, settled_s) and not self._waits(row))
        return replace(manifest, rows=rows)

    def judge(self, records: Iterable[SlideRecord], failures: Sequence[Mapping[str, str]]) -> list[str]:
        """Put into quarantine what failed, and take out what did not.

        Args:
            records: of the slides of this run.
            failures: slide_id, reason and message of each that went wrong, those that could not even be begun too.

        Returns:
            What is new of it, a line each: not what failed before for the same reason with the same files.
        """
        begun = {record.slide_id for record in records}
        wrong = {one["slide_id"] for one in failures}
        self.quarantine = {
            slide_id: one
            for slide_id, one in self.quarantine.items()
            if slide_id in wrong or (one.state and slide_id not in begun)
        }
        news = []
        for one in failures:
            slide_id, reason = one["slide_id"], one["reason"]
            state = self._asked.get(slide_id, "") if slide_id in begun else ""
            known = self.quarantine.get(slide_id)
            again = known is not None and (known.state, known.reason) == (state, reason)
            if not again:
                news.append(f"{slide_id}: {reason}: {one['message']}")
            tries = known.tries + 1 if again and known is not None else 1
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries - 1, 16))
            self.quarantine[slide_id] = Quarantined(state, reason, one["message"], tries, self.now + pause_s)
        return news

    def keep(self) -> None:
        """Write it down for the next run.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        with whole_file(self.path) as file:
            kept = {
                "now": self.now,
                "seen": {uri: asdict(one) for uri, one in self.seen.items()},
                "quarantine": {slide_id: asdict(one) for slide_id, one in self.quarantine.items()},
            }
            file.write_text(json.dumps(kept, indent=1), encoding="utf-8")

    def waiting(self) -> list[tuple[str, Quarantined]]:
        """Slides in quarantine, by id."""
        return sorted(self.quarantine.items())

    def _look(self, uri: str, state: str) -> Seen:
        before = self.seen.get(uri)
        return before if before is not None and before.state == state else Seen(state, self.now)

    def _has_settled(self, row: ManifestRow, settled_s: float) -> bool:
        return local_path(row) is None or self.now - self.seen[public_uri(row.uri)].since >= settled_s

    def _waits(self, row: ManifestRow) -> bool:
        known = self.quarantine.get(row.slide_id)
        same = known is not None and known.state == self._asked[row.slide_id]
        return same and known is not None and self.now < known.next_try


def read_inbox(path: Path, now: float) -> Inbox:
    """What earlier looks left; an empty one where there were none, or what they left is none.

    Args:
        path: where it is kept.
        now: seconds since 1970.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seen = {uri: Seen(**one) for uri, one in values["seen"].items()}
        quarantine = {slide_id: Quarantined(**one) for slide_id, one in values["quarantine"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Inbox(path, now)
    return Inbox(path, now, seen, quarantine)


def _state_of(row: ManifestRow) -> str:
    path = local_path(row)
    try:
        state = [] if path is None else state_of_slide(path)
    except OSError:
        state = []  # gone, or not to be read: doing it will say why
    return _hashed(state)


def _hashed(state: Sequence[Any]) -> str:
    return sha256(json.dumps(state).encode()).hexdigest()[:16]
