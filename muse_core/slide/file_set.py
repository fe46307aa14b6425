"""The files that make up one slide: most are one file, MRXS, VMS and DICOM are several."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from muse_core.machine.files import md5_of, new_md5
from muse_core.slide.dicom import DicomFile, is_dicom, read_dicom_file

_HEADERS_KEPT = 65536  # of DICOM files; each series asks for those of its whole folder


def files_of_slide(path: Path) -> tuple[Path, ...]:
    """Every file that a slide is read from, the named one first, the others by name.

    Args:
        path: the file that stands for the slide: `S.mrxs`, whose folder `S` holds the pixels; a `.vms` or `.vmu`, which
            names its images; a file of a DICOM series, whose others lie beside it. A DICOM file that is not whole yet,
            whose series is not known, counts to every series beside it.

    Raises:
        OSError: a folder cannot be listed.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        others: Iterable[Path] = (one for one in path.with_suffix("").rglob("*") if one.is_file())
    elif suffix in (".vms", ".vmu"):
        others = _named_in(path)
    elif is_dicom(path):
        others = _of_series(path)
    else:
        return (path,)
    return (path, *sorted({*others} - {path}))


def state_of_slide(path: Path) -> list[list[str | int]]:
    """What changes when any file of a slide does: name, size, times of change of content and of inode (ns) of each.

    The inode's time is the kernel's own: a copy that sets an old time of content, as it grows, does not set this one.

    Raises:
        OSError: a file cannot be looked at.
    """
    states: list[list[str | int]] = []
    for one in files_of_slide(path):
        found = one.stat()
        states.append([_name(one, path), found.st_size, found.st_mtime_ns, found.st_ctime_ns])
    return states


def md5_of_slide(path: Path) -> str:
    """The md5 of a slide's file, in hex; of several files that of the lines `md5  name`, as md5sum writes them.

    Raises:
        OSError: a file cannot be read.
    """
    files = files_of_slide(path)
    if len(files) == 1:
        return md5_of(path)
    lines = "".join(f"{md5_of(one)}  {_name(one, path)}\n" for one in files)
    digest: hashlib._Hash = new_md5()
    digest.update(lines.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _name(file: Path, slide: Path) -> str:
    return file.relative_to(slide.parent).as_posix()


def _named_in(path: Path) -> Iterator[Path]:
    """Files beside an index of Hamamatsu's that it names, `ImageFile=S(1,1).jpg`."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name = line.partition("=")[2].strip()
        if name and "/" not in name and "\\" not in name and (beside := path.parent / name).is_file():
            yield beside


def _of_series(path: Path) -> Iterator[Path]:
    own = _header(path)
    for one in path.parent.iterdir():
        if not one.name.startswith(".") and one.is_file() and is_dicom(one):
            other = _header(one)
            if own is None or other is None or other.series == own.series:
                yield one


def _header(path: Path) -> DicomFile | None:
    found = path.stat()
    return _header_as_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=_HEADERS_KEPT)  # size and time tell versions apart
def _header_as_of(path: Path, size: int, mtime_ns: int) -> DicomFile | None:
    return read_dicom_file(path)
