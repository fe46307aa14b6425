"""Where an output folder's results live: in the folder itself, or in an object store that it is the working copy of.

    work ─▶ staging ─ renames ─▶ the folder on this machine                       home: the folder
                                   └─ parts, polygons, ... uploaded ─▶ record ─▶  home: s3://bucket/run

A slide's record is its commit: written last, one small object, it names the parts. Before the first part changes the
record says `interrupted` and names old and new parts, so that whoever comes after a kill removes what is left of both.
What the store holds counts; the working folder keeps copies of small files, and staging, which never leaves it.
"""

import json
import logging
import os
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock

from muse_core.cohort.heartbeat import RunFacts, read_run
from muse_core.cohort.lease import Lease, holder_of
from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord, keep_record, read_record, read_records
from muse_core.cohort.shelf import DiskFolder, Shelf
from muse_core.errors import OutputError
from muse_core.machine.files import whole_file
from muse_core.machine.lock import locked

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
PATIENCE_S = 900.0  # for others that share a folder and write its tables
_ROUND_S = 2.0
_AT_ONCE = 16  # small objects fetched at once
_SMALL_FOLDERS = ("records/", "checksums/")
_TABLES = ("command.txt", "settings.json", "summary.md", "summary.json", "slides.parquet", "inbox.json")


class Home:
    """The output folder itself: results are where the work put them.

    Args:
        paths: of the output folder.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths

    @contextmanager
    def held(self, facts: RunFacts) -> Iterator[None]:
        """Be the one writer for a block; a folder's lock sees to that already."""
        yield

    @contextmanager
    def alone(self, facts: RunFacts) -> Iterator[None]:
        """For a run that shares the folder: be the only one that writes tables for a moment, when the others let go.

        Raises:
            OutputError: a run has the folder for itself, or it cannot be written.
        """
        until = time.monotonic() + PATIENCE_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.paths.out, patience_s=_ROUND_S))
                    break
                except OutputError as error:
                    holder = read_run(self.paths.run)
                    has_it = holder is not None and holder.lives(time.time())
                    if error.reason != "output_locked" or has_it or time.monotonic() > until:
                        raise
            yield

    def shelf(self) -> Shelf:
        """Small files of the folder, as all who write there see them."""
        return DiskFolder(self.paths.out)

    def refresh(self, slide_id: str) -> None:
        """Know what another run has made of a slide; it lies here."""

    def pull(self) -> None:
        """Have on this machine what a run needs to know of earlier ones; it lies here."""

    def beat(self, facts: RunFacts) -> None:
        """Give a sign of life where others look for it; a folder has `run.json`."""

    def holds(self, part: str) -> bool:
        """Whether a part is there, by its path below the output folder."""
        return (self.paths.out / part).exists()

    def keep(self, record: SlideRecord) -> None:
        """Put on record what became of a slide, when all else of it is in place.

        Raises:
            OutputError: the output cannot be written.
        """
        keep_record(record, self.paths.record(record.slide_id))

    def keep_tables(self) -> None:
        """Tables and summary of the run are written."""


class ObjectHome(Home):
    """A folder of an object store, of which the output folder is the working copy on this machine.

    Args:
        paths: of the working folder.
        folder: of the store.
        share: for a run that shares it with others: slides are its own by claims, and the lease is for tables alone.
    """

    def __init__(self, paths: RunPaths, folder: ObjectFolder, *, share: bool = False) -> None:
        super().__init__(paths)
        self._folder = folder
        self._share = share
        self._lease = Lease(folder)
        self._index = _Index(paths.out / ".published.jsonl")
        self._names: set[str] = set()
        self._alone = Lock()

    @contextmanager
    def held(self, facts: RunFacts) -> Iterator[None]:
        """Hold the folder's lease for a block; `beat` meanwhile.

        Raises:
            OutputError: another run writes there, or the store cannot be read or written.
        """
        self._lease.take(facts)
        try:
            yield
        finally:
            self._lease.release()

    @contextmanager
    def alone(self, facts: RunFacts) -> Iterator[None]:
        """Hold the lease for a moment, when others that share the folder let go of it.

        Raises:
            OutputError: a run has the folder for itself, or the store cannot be read or written.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._lease.take(facts)
                break
            except OutputError as error:
                holder = holder_of(self._folder)
                has_it = holder is not None and not holder.shares
                if error.reason != "output_locked" or has_it or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.2, 1.0) * _ROUND_S)  # noqa: S311  (not for secrets)
        try:
            yield
        finally:
            self._lease.release()

    def shelf(self) -> Shelf:
        """Small objects of the store's folder."""
        return self._folder

    def refresh(self, slide_id: str) -> None:
        """Fetch the record of a slide that another run has written, and know the parts that it names.

        Raises:
            OutputError: the store cannot be read.
        """
        path = self.paths.record(slide_id)
        name, state = self._name(path), self._folder.state(self._name(path))
        if state is None or self._index.is_same(name, path, state):
            return
        self._fetch(name, state)
        known = read_record(path)
        beside, folder = self._beside(slide_id)
        others = [*(() if known is None else known.parts), *map(self._name, beside)]
        there = {one for one in others if self._folder.state(one) is not None}
        there |= self._folder.names(self._name(folder)) | {name}
        with self._alone:
            self._names |= there

    def beat(self, facts: RunFacts) -> None:
        """A sign of life in the lease."""
        self._lease.beat(facts)

    def holds(self, part: str) -> bool:
        """Whether the store has a part."""
        with self._alone:
            return part in self._names

    def keep(self, record: SlideRecord) -> None:
        """Upload what is new of a slide, delete what it replaces, and its record last.

        Raises:
            OutputError: the store cannot be written, or another run has taken over.
        """
        if not self._share:
            self._lease.check()
        path = self.paths.record(record.slide_id)
        if record.row.get("reason") != INTERRUPTED:
            self._change(record, read_record(path))
        keep_record(record, path)
        self._put(path)
        if record.row.get("reason") != INTERRUPTED:
            for part in record.parts:
                (self.paths.out / part).unlink(missing_ok=True)

    def keep_tables(self) -> None:
        """Upload tables and summary; `slides.parquet` is no older than any record that it has a row of.

        Raises:
            OutputError: the store cannot be written, or another run has taken over.
        """
        self._lease.check()
        for name in _TABLES:
            if (path := self.paths.out / name).exists():
                self._put(path)

    def _change(self, record: SlideRecord, before: SlideRecord | None) -> None:
        """Make the store's files of a slide those of the working folder, but for the record."""
        for part in record.parts:
            if (path := self.paths.out / part).exists():  # else it is there from before
                self._put(path, is_part=True)
        beside, folder = self._beside(record.slide_id)
        here = [path for path in beside if path.exists()]
        here += [path for path in folder.rglob("*") if path.is_file()]
        for path in here:
            self._put(path)
        with self._alone:
            below = f"{self._name(folder)}/"
            there = {name for name in self._names if name.startswith(below)}
            there |= {self._name(path) for path in beside} & self._names
            there |= set(() if before is None else before.parts) & self._names
        gone = there - {self._name(path) for path in here} - set(record.parts)
        self._folder.delete(sorted(gone))
        with self._alone:
            self._names -= gone

    def _beside(self, slide_id: str) -> tuple[list[Path], Path]:
        """What a slide has besides parts and record: files, and the folder of its pictures."""
        files = [self.paths.tissue(slide_id), self.paths.contact_sheet(slide_id), self.paths.checksum(slide_id)]
        return files, self.paths.pictures(slide_id)

    def _put(self, path: Path, *, is_part: bool = False) -> None:
        name = self._name(path)
        if not is_part and self._index.is_same(name, path):
            return
        self._folder.upload(path, name)
        with self._alone:
            self._names.add(name)
        if not is_part:
            self._index.note(name, self._folder.state(name), path)

    def pull(self) -> None:
        """Fetch small files that changed in the store, and drop those that it does not have.

        Raises:
            OutputError: the store cannot be read.
        """
        states = self._folder.states()
        with self._alone:
            self._names = set(states)
        small = [name for name in states if name.startswith(_SMALL_FOLDERS) or name in _TABLES]
        missing = [name for name in small if not self._index.is_same(name, self.paths.out / name, states[name])]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as threads:
            list(threads.map(lambda name: self._fetch(name, states[name]), missing))
        local = [path for folder in _SMALL_FOLDERS for path in (self.paths.out / folder).glob("*.json")]
        local += [path for name in _TABLES if (path := self.paths.out / name).exists()]
        for path in local:
            if self._name(path) not in states:
                path.unlink()
        for record in read_records(self.paths.records):
            if record.status == "done":
                for part in record.parts:
                    (self.paths.out / part).unlink(missing_ok=True)  # uploaded by a run that was then killed
        logger.info("%s: %d objects, %d small ones fetched", self._folder.url, len(states), len(missing))

    def _fetch(self, name: str, state: str) -> None:
        path = self.paths.out / name
        with whole_file(path) as temporary:
            self._folder.download(name, temporary)
        self._index.note(name, state, path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.paths.out).as_posix()


class _Index:
    """Which state of an object each small file of the working folder is a copy of; a line a change, the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._alone = Lock()
        self._known: dict[str, list[object]] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                name, *state = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            self._known[name] = state

    def is_same(self, name: str, path: Path, state: str | None = None) -> bool:
        """Whether a file is the object's copy still, and the object in that state, if one is given."""
        with self._alone:
            known = self._known.get(name)
        if known is None or not path.exists():
            return False
        return known[1:] == _of_file(path) and (state is None or known[0] == state)

    def note(self, name: str, state: str | None, path: Path) -> None:
        """A file is the copy of an object in that state."""
        known = [state, *_of_file(path)]
        with self._alone:
            self._known[name] = known
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, *known]) + "\n")


def _of_file(path: Path) -> list[object]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def fetch(store: ObjectFolder, names: Iterable[str], folder: Path) -> dict[str, bool]:
    """Have objects as files of a folder, those that changed since anew; whether each is there, by name.

    Raises:
        OutputError: the store cannot be read, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    with locked(folder):
        index = _Index(folder / ".published.jsonl")
        for name in names:
            state, path = store.state(name), folder / name
            found[name] = state is not None
            if state is None:
                path.unlink(missing_ok=True)
            elif not index.is_same(name, path, state):
                with whole_file(path) as temporary:
                    store.download(name, temporary)
                index.note(name, state, path)
    return found


def interrupted_record(row: dict[str, object], parts: Iterable[str]) -> SlideRecord:
    """The record of a slide while its parts are changed.

    Args:
        row: who the slide is.
        parts: those that it had and those that it gets.
    """
    text = f"{row['slide_id']}: run the command again"
    values = {**row, "status": "failed", "reason": INTERRUPTED, "message": text}
    return SlideRecord(values, parts=tuple(sorted(set(parts))))


def working_folder(name: str) -> Path:
    """Where this machine keeps the working copy of an output folder in a store: below `MUSE_WORK`, or the user's cache.

    Args:
        name: of the output, as a file's name.
    """
    own = os.environ.get("MUSE_WORK")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return (Path(own) if own else Path(cache) / "muse" / "outputs").absolute() / name
