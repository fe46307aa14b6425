"""Which patch images a folder holds, in a stable order, each with an id of its own."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from muse_core.cohort.manifest.files import is_hidden
from muse_core.cohort.uris import path_text
from muse_core.errors import ConfigError

PATCH_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class Patch:
    """One image file as listed; size (byte) and mtime_ns are -1 where it cannot be looked at."""

    slide_id: str
    path: Path
    size: int
    mtime_ns: int


def list_patches(folder: Path) -> list[Patch]:
    """Every PNG, JPEG and TIFF below a folder, ordered by path; hidden files and folders are left out.

    A patch's id is its path below the folder without the suffix; with it where two files share the path without.

    Raises:
        ConfigError: no such folder, one below it cannot be read, or there is no image.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise ConfigError(f"--images {folder}: {found}; give a folder of {' '.join(PATCH_SUFFIXES)} files")
    files = sorted((path_text(path.relative_to(folder)), path) for path in _files_below(folder))
    listed = [(name, path, size_and_time) for name, path in files if (size_and_time := _looked_at(path))]
    if not listed:
        raise ConfigError(f"--images {folder}: no image in it; patches end in {' '.join(PATCH_SUFFIXES)}")
    ids = _distinct_ids([name for name, _, _ in listed])
    return [
        Patch(slide_id, path.absolute(), *size_and_time)
        for slide_id, (_, path, size_and_time) in zip(ids, listed, strict=True)
    ]


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ConfigError(
            f"--images {path_text(Path(error.filename))}: {error.strerror}; make it readable or move it away"
        )

    for root, folders, names in os.walk(folder, onerror=refuse):
        # Names that start with a dot are thumbnails, unfinished downloads and the shadow files of macOS.
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(root) / name for name in names if _is_patch(name))


def _is_patch(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PATCH_SUFFIXES)


def _looked_at(path: Path) -> tuple[int, int] | None:
    """Size and mtime; (-1, -1) for a file that is not there (a dangling link), None for what is not a file."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _distinct_ids(names: list[str]) -> list[str]:
    short = [re.sub(r"\.[^./]*$", "", name) for name in names]
    taken = Counter(short) + Counter(names)
    return [stem if taken[stem] == 1 else name for stem, name in zip(short, names, strict=True)]
