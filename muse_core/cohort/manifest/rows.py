"""Manifest rows: one field or one row at a time to a value or a problem, then what only the rows together show."""

import math
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from muse_core.cohort.manifest.tcga import patient_barcode
from muse_core.cohort.uris import absolute_uri, missing_driver, path_of, path_text, public_uri, scheme_of, uri_problem
from muse_core.errors import ConfigError, figure
from muse_core.images.plausible_mpp import SLIDE_MPP
from muse_core.machine.files import normal_form

COLUMNS = ("slide_id", "case_id", "project", "uri", "size", "md5", "mpp")
OPTIONAL_COLUMNS = ("scene",)  # known, and written where a row has a value
UNKNOWN_PROJECT = "unknown"

_LONGEST_NAME_BYTES = 1024  # four times a file's; what is too long for a file's name is cut there (`safe_name`)
_LARGEST_SIZE = 2**63 - 1  # the slides table holds it as int64
Row = TypeVar("Row")


@dataclass(frozen=True)
class ManifestRow:
    """One slide of a manifest; `row` is its line in the file as an editor counts, or its place in a listing."""

    row: int
    slide_id: str
    case_id: str
    project: str
    uri: str  # absolute path or URL
    size: int | None  # byte
    md5: str | None  # 32 lower-case hex digits
    mpp: float | None  # µm/px, overrides what the slide says
    scene: int | None = None  # which of several pictures in the file, 1 for the first; None for the largest
    version: str | None = None  # of an object without md5: changes when it does; a run looks it up


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row. An error keeps the row out of the manifest's rows, a warning does not."""

    row: int | None
    message: str
    slide_id: str | None = None
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Manifest:
    """The usable rows in file order, and every problem found, by row."""

    rows: tuple[ManifestRow, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep a row out."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def with_mpp(manifest: Manifest, mpp: float | None) -> Manifest:
    """The manifest with `mpp` µm/px in every row that gives none; as it is for None.

    Raises:
        ConfigError: mpp is no microscope's.
    """
    if mpp is None:
        return manifest
    low, high = SLIDE_MPP
    if not low <= mpp <= high:
        raise ConfigError(f"--mpp {figure(mpp)}: needs µm/px between {low:g} and {high:g}, such as 0.25")
    return replace(manifest, rows=tuple(replace(row, mpp=row.mpp or mpp) for row in manifest.rows))


def with_scene(manifest: Manifest, scene: int | None) -> Manifest:
    """The manifest with `scene` in every row that gives none; as it is for None.

    Raises:
        ConfigError: scenes count from 1.
    """
    if scene is None:
        return manifest
    if scene < 1:
        raise ConfigError(f"--scene {scene}: scenes count from 1; `muse doctor SLIDE` lists those of a file")
    return replace(manifest, rows=tuple(replace(row, scene=row.scene or scene) for row in manifest.rows))


def check_row(row: int, values: Mapping[str, str], folder: Path | str) -> ManifestRow | list[Problem]:
    """One row's texts to a ManifestRow, or all its problems.

    Args:
        row: line number, 1-based.
        values: column name to text, stripped; absent is as empty.
        folder: where relative paths are counted from, a path or a URL.
    """
    messages: list[str] = []

    def field(name: str, parse: Callable[[str], float | str], *, required: bool = False) -> float | str | None:
        text = values.get(name, "")
        if not text:
            messages.extend([f"{name} is missing"] if required else [])
            return None
        try:
            return parse(text)
        except ValueError as error:
            messages.append(str(error))
            return None

    slide_id = field("slide_id", lambda text: _name("slide_id", text), required=True)
    case_id = field("case_id", lambda text: _name("case_id", text))
    project = field("project", lambda text: _name("project", text))
    uri = field("uri", lambda text: _uri(text, folder), required=True)
    size = field("size", _size)
    md5 = field("md5", _md5)
    mpp = field("mpp", _mpp)
    scene = field("scene", _scene)
    if messages:
        return [Problem(row, message, values.get("slide_id") or None) for message in messages]
    name = str(slide_id)
    return ManifestRow(
        row=row,
        slide_id=name,
        case_id=str(case_id or patient_barcode(name) or name),
        project=str(project or UNKNOWN_PROJECT),
        uri=str(uri),
        size=None if size is None else int(size),
        md5=None if md5 is None else str(md5),
        mpp=None if mpp is None else float(mpp),
        scene=None if scene is None else int(scene),
    )


def check_together(rows: Sequence[ManifestRow], *, check_files: bool = False) -> Iterator[Problem]:
    """What only good rows together, and with `check_files` the disk, can show."""
    yield from _same_ignoring_case(rows)
    yield from _same_uri(rows)
    if check_files:
        yield from filter(None, map(_file_problem, rows))
        yield from _missing_drivers(rows)


def doubled_ids(named: Iterable[tuple[int, str]]) -> Iterator[Problem]:
    """Every row, good or bad, whose id stands elsewhere too: none is taken, which one was meant cannot be known.

    Args:
        named: line number and slide id of each row; rows without an id do not count.
    """
    for (row, slide_id), others in _groups([one for one in named if one[1]], lambda one: normal_form(one[1])):
        message = f"slide_id {slide_id!r} is also in {_listed([other for other, _ in others])}; give each its own"
        yield Problem(row, message, slide_id)


def _same_ignoring_case(rows: Sequence[ManifestRow]) -> Iterator[Problem]:
    for row, others in _groups(rows, lambda row: row.slide_id.casefold()):
        if unlike := [other.row for other in others if other.slide_id != row.slide_id]:
            message = f"slide_id {row.slide_id!r} differs from {_listed(unlike)} only in case, which some disks ignore"
            yield Problem(row.row, message, row.slide_id, "warning")


def _same_uri(rows: Sequence[ManifestRow]) -> Iterator[Problem]:
    users: dict[tuple[str, int | None], list[ManifestRow]] = defaultdict(list)
    for row in rows:
        users[row.uri, row.scene].append(row)
    for (uri, _), (row, *others) in users.items():
        if unlike := [other.row for other in others if other.slide_id != row.slide_id]:
            message = f"uri {public_uri(uri)!r} is also that of {_listed(unlike)}; the slide would be counted again"
            yield Problem(row.row, message, row.slide_id, "warning")


def _groups(rows: Sequence[Row], key: Callable[[Row], str]) -> Iterator[tuple[Row, list[Row]]]:
    """Each row that shares its key with others, and those others."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    for row in rows:
        if others := [other for other in groups[key(row)] if other is not row]:
            yield row, others


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:5]))}{more}"


def _file_problem(row: ManifestRow) -> Problem | None:
    path = path_of(row.uri)
    if path is None:
        return None
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Problem(row.row, f"no file {path}; relative paths count from the manifest's folder", row.slide_id)
    except OSError as error:  # such as a name too long to be one
        return Problem(row.row, f"{path}: {error.strerror or error}; give a file that can be read", row.slide_id)
    if stat.S_ISDIR(found.st_mode):
        return Problem(row.row, f"{path} is a folder; name the slide file in it", row.slide_id)
    if row.size is not None and found.st_size != row.size:
        return Problem(row.row, f"{path} has {found.st_size} bytes, the manifest says {row.size}", row.slide_id)
    return None


def _missing_drivers(rows: Sequence[ManifestRow]) -> Iterator[Problem]:
    """One warning a driver; a warning, because the machine that checks need not be the one that fetches."""
    needed: dict[str, str | None] = {}  # by the part of a URI that chooses its drivers: an import tried is not repeated
    missing: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        scheme = scheme_of(row.uri)
        if scheme in {"", "file", "gdc", "http", "https"}:
            continue
        drivers = "::".join(link.partition("://")[0] for link in row.uri.split("::"))
        if drivers not in needed:
            needed[drivers] = missing_driver(row.uri)
        if message := needed[drivers]:
            missing[message].append(row)
    for message, (first, *others) in missing.items():
        also = f"; the same for {_listed([row.row for row in others])}" if others else ""
        yield Problem(first.row, f"uri {public_uri(first.uri)!r}: {message}{also}", first.slide_id, "warning")


def _name(column: str, text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise ValueError(f"{column} {text!r} holds a control character or broken text; take it out")
    if (length := len(text.encode())) > _LONGEST_NAME_BYTES:
        raise ValueError(f"{column} {text[:40]!r}... takes {length} bytes; at most {_LONGEST_NAME_BYTES} fit")
    return normal_form(text)


def _uri(text: str, folder: Path | str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError(f"uri {text!r} holds a control character; take it out")
    if problem := uri_problem(text):
        raise ValueError(problem)
    uri = absolute_uri(text, folder)
    if any(unicodedata.category(character) == "Cs" for character in uri):  # surrogates stand for bytes of no character
        raise ValueError(f"uri '{path_text(Path(uri))}' is not UTF-8 text; rename the file or folder in question")
    return uri


def _size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 0 < int(text) <= _LARGEST_SIZE:
        raise ValueError(f"size {text!r} is not a whole number of bytes above 0; leave it empty if it is not known")
    return int(text)


def _md5(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
        raise ValueError(f"md5 {text!r} is not 32 hex digits; leave it empty if it is not known")
    return text.lower()


def _scene(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise ValueError(f"scene {text!r} is not a number from 1 on; leave it empty to take the largest picture")
    return int(text)


def _mpp(text: str) -> float:
    try:
        mpp = float(text) if "_" not in text else math.nan
    except ValueError:
        mpp = math.nan
    if math.isnan(mpp):
        raise ValueError(f"mpp {text!r} is not a number of µm/px, such as 0.25; leave it empty to take the slide's own")
    low, high = SLIDE_MPP
    if not low <= mpp <= high:
        raise ValueError(f"mpp {text!r} is outside {low:g} to {high:g} µm/px")
    return mpp
