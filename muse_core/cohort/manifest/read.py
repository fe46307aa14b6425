"""Manifest files to rows: our CSV, GDC's TSV, a folder or glob of slides, one slide; and our CSV written."""

import csv
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from muse_core.cohort.manifest.files import files_below, ids_of_files, is_slide, slides_among, slides_below
from muse_core.cohort.manifest.ids import distinct_ids
from muse_core.cohort.manifest.rows import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    Manifest,
    ManifestRow,
    Problem,
    check_row,
    check_together,
    doubled_ids,
)
from muse_core.cohort.manifest.store import StoreListing, slides_in_store
from muse_core.cohort.manifest.tcga import slide_ids
from muse_core.cohort.objects import ObjectFolder, is_object_url, parent_and_name, url_of_path
from muse_core.cohort.source import SlideSource
from muse_core.cohort.uris import (
    SLIDE_SUFFIXES,
    path_of,
    public_uri,
    scheme_of,
    slide_suffix,
    unread_format,
    uri_suffix,
)
from muse_core.errors import ManifestError, OutputError
from muse_core.machine.files import whole_file
from muse_core.slide.dicom import is_dicom

_REQUIRED = ("slide_id", "uri")
_GDC_COLUMNS = frozenset({"id", "filename", "md5", "size", "state"})
_GDC_REQUIRED = frozenset({"id", "filename"})
_LARGEST_MANIFEST_BYTES = 256 * 2**20  # a million slides take less; a slide given by mistake is not read whole
_LONGEST_QUOTED_LINES = 50  # a quoted value may run over lines; one that never ends must not swallow the file
_LONGEST_HEADER = 10_000  # characters
_GLOB = re.compile(r"[*?\[]")

NO_SLIDES = "no_slides"  # the reason of a folder or glob without any: there may be some another time


class SlideEntry(SlideSource, Protocol):
    """What a manifest line is made of: a ManifestRow, a GdcSlide or anything like them."""

    @property
    def case_id(self) -> str: ...  # noqa: D102
    @property
    def project(self) -> str: ...  # noqa: D102
    @property
    def mpp(self) -> float | None: ...  # noqa: D102


def read_manifest(path: str | Path, *, check_files: bool = False, known: Mapping[str, str] | None = None) -> Manifest:
    """Read which slides to work on; faults of single rows become problems and lose no other row.

    Args:
        path: our CSV (`slide_id,case_id,project,uri,size,md5,mpp`, the columns in any order, and `scene` where
            files hold several), GDC's manifest TSV as downloaded, a folder (searched whole), a glob in quotes, or one
            slide file; all but a glob may be the URL of one in an object store.
        check_files: also look for local files and compare their sizes.
        known: ids that files had in earlier runs, by their absolute paths; a folder's files keep them.

    Returns:
        The usable rows and all problems.

    Raises:
        ManifestError: nothing there, not a manifest, a column missing, or no row at all.
    """
    path = url_of_path(path)
    if isinstance(path, str) and scheme_of(path) not in ("", "file"):
        return _from_store(path, known or {})
    path = path_of(path) or Path(path) if isinstance(path, str) else path
    # os.path, not Path: a name too long to be one, or in a folder one may not search, is no folder and no error.
    if os.path.isdir(path):
        return _from_files(path, *slides_below(path), check_files=check_files, known=known or {})
    if not os.path.exists(path) and _GLOB.search(str(path)):
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
        among = slides_among(sorted(name for name in found if is_slide(name)))
        return _from_files(path, *among, check_files=check_files, known=known or {})
    if os.path.isfile(path) and (slide_suffix(path.name) or is_dicom(path)):
        return _from_files(path, [path], [], check_files=check_files, known=known or {})
    if words := unread_format(path.name):
        raise ManifestError(f"{path}: {words}")
    return _from_text(str(path), _read_text(path), path.parent, check_files=check_files)


def _from_store(url: str, known: Mapping[str, str]) -> Manifest:
    """A manifest, a slide, or all slides below a URL."""
    name = public_uri(url)
    if not is_object_url(url):
        raise ManifestError(f"manifest {name}: a manifest is not fetched from there; copy it to this machine")
    if words := unread_format(url):
        raise ManifestError(f"{name}: {words}")
    folder, last = parent_and_name(url)
    if uri_suffix(url):
        (slide_id,) = distinct_ids([url], [last], known)
        return _checked([(1, {"slide_id": slide_id, "uri": url})], "", [], check_files=False)
    try:
        data = ObjectFolder(folder).read(last) if last and not url.endswith("/") else None
        if data is not None:
            return _from_text(url, _decoded(url, data), folder, check_files=False)
        return _listed(url, slides_in_store(url, known))
    except OutputError as error:
        raise ManifestError(f"manifest {error}", reason=error.reason) from None


def _listed(url: str, found: StoreListing) -> Manifest:
    if not found.slides:
        text = f"manifest {url}: no slide in it; slides end in {' '.join(SLIDE_SUFFIXES)}"
        raise ManifestError("; ".join([text, *found.left_out]), reason=NO_SLIDES)
    records = [(number, {"slide_id": one.slide_id, "uri": one.url}) for number, one in enumerate(found.slides, start=1)]
    problems = [Problem(None, words, severity="warning") for words in found.left_out]
    return _checked(records, url, problems, check_files=False)


def write_manifest(rows: Iterable[SlideEntry], path: Path) -> int:
    """Write our CSV, whole or not at all; the number of rows written.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    written = list(rows)
    more = [column for column in OPTIONAL_COLUMNS if any(getattr(row, column, None) is not None for row in written)]
    columns = (*COLUMNS, *more)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in written:
            values = (getattr(row, column, None) for column in columns)
            writer.writerow("" if value is None else value for value in values)
    return len(written)


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST_MANIFEST_BYTES:
            raise ManifestError(f"manifest {path}: {size} bytes are too many for a manifest; give a CSV of slides")
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise ManifestError(f"manifest {path}: {reason}; give a CSV, a folder or a slide") from None
    return _decoded(str(path), data)


def _decoded(path: str, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f"manifest {path}: UTF-16 text; save it as CSV UTF-8")
    if b"\0" in data:
        raise ManifestError(f"manifest {path}: a binary file, not text; give a CSV with the header {','.join(COLUMNS)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\r|\n", data[: error.start]))
        raise ManifestError(f"manifest {path}: line {line} is not UTF-8 text; save it as CSV UTF-8") from None


def _from_text(path: str, text: str, folder: Path | str, *, check_files: bool) -> Manifest:
    lines = re.split(r"\r\n|\r|\n", text)  # as editors count; str.splitlines knows more line ends than they do
    header_at = next((at for at, line in enumerate(lines) if line.strip()), None)
    if header_at is None:
        raise ManifestError(f"manifest {path}: empty; the first line must be {','.join(COLUMNS)}")
    if len(lines[header_at]) > _LONGEST_HEADER:
        raise ManifestError(f"manifest {path}: its first line is no header; it must be {','.join(COLUMNS)}")
    header, delimiter = _read_header(path, lines[header_at])
    is_gdc = set(header) >= _GDC_REQUIRED and "slide_id" not in header
    problems = [] if is_gdc else _header_problems(header_at + 1, header)
    records: list[tuple[int, dict[str, str]]] = []
    for number, fields in _records(lines, header_at + 1, delimiter, len(header)):
        if isinstance(fields, str):
            problems.append(Problem(number, fields))
        else:
            records.append((number, dict(zip(header, fields, strict=False))))
    if not records and all(problem.severity == "warning" for problem in problems):
        raise ManifestError(f"manifest {path}: a header and no slides; add a line a slide")
    if is_gdc:
        records = _from_gdc(records, problems)
    return _checked(records, folder, problems, check_files=check_files)


def _checked(
    records: Sequence[tuple[int, Mapping[str, str]]], folder: Path | str, problems: list[Problem], *, check_files: bool
) -> Manifest:
    """All rows checked, each and together; those that an error names are left out."""
    rows: list[ManifestRow] = []
    for number, values in records:
        checked = check_row(number, values, folder)
        if isinstance(checked, ManifestRow):
            rows.append(checked)
        else:
            problems.extend(checked)
    problems.extend(doubled_ids((number, values.get("slide_id", "")) for number, values in records))
    problems.extend(check_together(rows, check_files=check_files))
    faulty = {problem.row for problem in problems if problem.severity == "error"}
    problems.sort(key=lambda problem: problem.row or 0)
    return Manifest(tuple(row for row in rows if row.row not in faulty), tuple(problems))


def _read_header(path: str, line: str) -> tuple[list[str], str]:
    """The column names in lower case and the delimiter under which they make sense: comma, tab or semicolon."""
    headers = {mark: [name.strip().lower() for name in next(csv.reader([line], delimiter=mark))] for mark in ",\t;"}
    for delimiter, header in headers.items():
        if set(_REQUIRED) <= set(header) or set(header) >= _GDC_REQUIRED:
            if doubled := sorted({name for name in header if name and header.count(name) > 1}):
                raise ManifestError(f"manifest {path}: column {doubled[0]!r} stands twice in the header; keep one")
            return header, delimiter
    best = max(headers.values(), key=lambda header: len(set(header) & {*COLUMNS, *_GDC_COLUMNS}))
    missing = ", ".join(name for name in _REQUIRED if name not in best)
    found = ", ".join(repr(name[:30]) for name in best[:8])
    raise ManifestError(
        f"manifest {path}: no column {missing}, found {found}; "
        f"the first line must be {','.join(COLUMNS)} or that of a GDC manifest"
    )


def _header_problems(number: int, header: list[str]) -> list[Problem]:
    extra = [name for name in header if name and name not in (*COLUMNS, *OPTIONAL_COLUMNS)]
    messages = [f"column {name!r} is not known and not used" for name in extra]
    messages += [f"no column {name!r}" + _INSTEAD[name] for name in _INSTEAD if name not in header]
    return [Problem(number, message, severity="warning") for message in messages]


_INSTEAD = {
    "case_id": "; a slide's TCGA patient, or else its own id, stands in",
    "project": "; all slides are of project 'unknown'",
}


def _records(lines: list[str], start: int, delimiter: str, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Each record's first line number with its stripped fields, or with what is wrong with it."""
    at = start
    while at < len(lines):
        number, line = at + 1, lines[at]
        at += 1
        if not line.strip(f" \t{delimiter}"):
            continue  # blank, or the row of bare commas that spreadsheets leave
        fields, taken = _parse(lines, number - 1, delimiter, width)
        at += taken - 1
        if isinstance(fields, str):
            yield number, fields
        elif any(fields[width:]):
            yield number, f"{len(fields)} values under {width} columns; quote a value that holds {delimiter!r}"
        else:
            yield number, [field.strip() for field in fields[:width]]


def _parse(lines: list[str], at: int, delimiter: str, width: int) -> tuple[list[str] | str, int]:
    """The fields of the record that starts at a line, or what is wrong with it; and how many lines it takes."""
    malformed = "a quote that never closes, or text after one that does; quote the whole value or no part of it"
    for taken in range(1, _LONGEST_QUOTED_LINES + 1):
        text = "\n".join(lines[at : at + taken])
        try:
            fields = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error) and at + taken < len(lines):
                continue
            return (malformed if '"' in lines[at] else f"not CSV: {error}"), 1
        # A value over several lines is believed only where the whole record comes out right.
        return (fields, taken) if taken == 1 or len(fields) == width else (malformed, 1)
    return malformed, 1


def _from_gdc(records: list[tuple[int, dict[str, str]]], problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """GDC's columns to ours. Its manifest does not say the project; `muse manifest gdc` asks GDC for it."""
    slides = []
    for number, values in records:
        name = values.get("filename", "")
        if slide_suffix(name):
            slides.append((number, name, values))
        else:
            problems.append(Problem(number, f"filename {name!r} is not a slide's; take the row out"))
    ids = slide_ids([name for _, name, _ in slides])
    return [
        (number, {"slide_id": slide_id, "uri": f"gdc://{values.get('id', '')}"} | _picked(values, "size", "md5"))
        for (number, _, values), slide_id in zip(slides, ids, strict=True)
    ]


def _picked(values: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: values.get(name, "") for name in names}


def _from_files(
    path: Path, files: list[Path], left_out: list[str], *, check_files: bool, known: Mapping[str, str]
) -> Manifest:
    if not files:
        text = f"manifest {path}: no slide in it; slides end in {' '.join(SLIDE_SUFFIXES)}{_unread_below(path)}"
        raise ManifestError(text, reason=NO_SLIDES)
    root = path if os.path.isdir(path) else Path(os.path.commonpath([file.parent for file in files]))
    records = [
        (number, {"slide_id": slide_id, "uri": os.path.abspath(file)})
        for number, (file, slide_id) in enumerate(zip(files, ids_of_files(root, files, known), strict=True), start=1)
    ]
    problems = [Problem(None, words, severity="warning") for words in left_out]
    return _checked(records, root, problems, check_files=check_files)


def _unread_below(path: Path) -> str:
    """What a folder holds of formats that are not read, in words that follow "no slide in it"."""
    if not os.path.isdir(path):
        return ""
    found = (unread_format(one.name) for one in files_below(path))
    words = next((one for one in found if one), "")
    return f"; it holds {words}" if words else ""
