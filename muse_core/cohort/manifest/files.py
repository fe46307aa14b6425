"""Which files below a folder are slides, and what each is called."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from muse_core.cohort.manifest.ids import distinct_ids
from muse_core.cohort.uris import path_text, slide_stem, slide_suffix
from muse_core.errors import ManifestError
from muse_core.slide.dicom import is_dicom, one_a_series

# A scanner's small pictures beside a slide: the slide's name with one of these words behind it.
_SMALL_PICTURE = re.compile(
    r"[\s._\-(\[]*(?:thumb(?:nail)?|macro|label|overview|preview|map|snapshot|barcode)s?[\s._\-)\]]*\d*$", re.IGNORECASE
)
OWN_FOLDERS = ("contact_sheets",)  # pictures that builds of this project write
# What file servers and archivers keep beside files: thumbnails and shadows of them, and what was thrown away.
_SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def slides_below(folder: Path) -> tuple[list[Path], list[str]]:
    """The slides of a folder and all below it, links to folders followed once; and what was left out, in words.

    Raises:
        ManifestError: a folder below it cannot be read.
    """
    return slides_among(sorted(path for path in files_below(folder) if is_slide(path)))


def slides_among(files: list[Path]) -> tuple[list[Path], list[str]]:
    """Of files that are named as slides, those that are: one a DICOM series, no thumbnails; the rest in words."""
    files, words = _without_links(files)
    dicom = [path for path in files if is_dicom(path)]
    of_series, standing = one_a_series(dicom)
    words += [
        f"{path.name} stands for its DICOM series: {count} other file{'s' if count > 1 else ''} beside it "
        f"{'are' if count > 1 else 'is'} the same slide"
        for path, count in standing.items()
    ]
    kept = {*of_series, *(path for path in files if path not in set(dicom))}
    small = [path for path in files if path in kept and is_small_picture(path, files)]
    words += [left_out_as_small(path) for path in small]
    return [path for path in files if path in kept and path not in set(small)], words


def is_slide(path: Path) -> bool:
    """Whether a path is named as a slide, or is DICOM without a suffix, and is no folder."""
    # Names that start with a dot are unfinished downloads and the shadow files of macOS.
    if path.name.startswith(".") or os.path.isdir(path):
        return False
    return bool(slide_suffix(path.name)) or is_dicom(path)


def is_hidden(folder: str) -> bool:
    """Whether a folder of that name holds nothing that a person put there."""
    return folder.startswith(".") or folder in _SYSTEM_FOLDERS


def _without_links(files: list[Path]) -> tuple[list[Path], list[str]]:
    """The files without links to others among them, which would be one slide twice; and what was left out, in words."""
    kept: dict[str, Path] = {}
    words = []
    for path in sorted(files, key=os.path.islink):  # files before links to them
        first = kept.setdefault(os.path.realpath(path), path)
        if first != path:
            words.append(f"{path.name} is a link to the same file as {first.name} and left out")
    taken = set(kept.values())
    return [path for path in files if path in taken], words


def is_small_picture(path: PurePath, slides: Sequence[PurePath]) -> bool:
    """Whether a file is called as a thumbnail, macro or label of one of the slides in its folder."""
    stem = slide_stem(path.name)
    short = _SMALL_PICTURE.sub("", stem)
    if short == stem:
        return False
    return any(one.parent == path.parent and one != path and short in _names(one) for one in slides)


def left_out_as_small(path: PurePath) -> str:
    """What is said of a small picture that is no slide."""
    return f"{path.name} is taken for a small picture of the slide beside it and left out"


def is_picture_of(path: PurePath, slides: Sequence[PurePath]) -> bool:
    """Whether an image is one of a slide beside it: of its name, with or without a word such as thumbnail."""
    stem = path.stem
    beside = [one for one in slides if one.parent == path.parent]
    return is_small_picture(path, slides) or any(stem in _names(one) for one in beside)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder; a link to a folder is followed once, and not where it leads back inside.

    Raises:
        ManifestError: a folder below it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ManifestError(
            f"manifest {error.filename}: {error.strerror}; make it readable or list the slides in a CSV"
        )

    seen: set[str] = set()
    waiting = [Path(folder)]
    while waiting:
        start = waiting.pop(0)
        for root, folders, names in os.walk(start, onerror=refuse):
            real = os.path.realpath(root)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if name not in OWN_FOLDERS and not is_hidden(name)]
            links = [name for name in folders if os.path.islink(os.path.join(root, name))]
            waiting += [Path(root) / name for name in sorted(links)]
            folders[:] = [name for name in folders if name not in links]
            yield from (Path(root) / name for name in names)


def ids_of_files(root: Path, files: list[Path], known: Mapping[str, str]) -> list[str]:
    """An id a file, as `distinct_ids` has it.

    Args:
        root: the folder that paths are counted from.
        files: the slides.
        known: ids of earlier runs by absolute path.
    """
    relative = [path_text(file.relative_to(root)) for file in files]
    return distinct_ids([os.path.abspath(file) for file in files], relative, known)


def _names(slide: PurePath) -> tuple[str, str]:
    return slide_stem(slide.name), slide.name
