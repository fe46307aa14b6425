"""Which objects below a URL are slides, and what each is called."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from muse_core.cohort.manifest.files import OWN_FOLDERS, is_hidden, is_picture_of, is_small_picture, left_out_as_small
from muse_core.cohort.manifest.ids import distinct_ids, is_there
from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.uris import slide_suffix

_OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".dcm")


@dataclass(frozen=True)
class StoredSlide:
    """An object that is a slide, and its id."""

    slide_id: str
    url: str


@dataclass(frozen=True)
class StoreListing:
    """What lies below a URL: slides, and what was left out, in words."""

    slides: tuple[StoredSlide, ...]
    left_out: tuple[str, ...]


def slides_in_store(url: str, known: Mapping[str, str], suffixes: Sequence[str] = ()) -> StoreListing:
    """The slides below a URL.

    Args:
        url: of a folder.
        known: ids of earlier runs by URL; they stay.
        suffixes: of images that are taken for slides too.

    Raises:
        ConfigError, OutputError: the URL is of no use, or the store cannot be read.
    """
    url = url.rstrip("/")
    names = sorted(name for name in ObjectFolder(url).sizes() if not _is_hidden(PurePosixPath(name)))
    slides = [name for name in names if slide_suffix(name)]
    several = [name for name in slides if slide_suffix(name) in _OF_SEVERAL_FILES]
    own = [name for name in names if name not in set(several)]
    own = [name for name in own if slide_suffix(name) or PurePosixPath(name).suffix.lower() in suffixes]
    left_out = []
    if several:
        left_out.append(
            f"{several[0]} and {len(several) - 1} others like it are left out: slides of several files "
            "are not fetched from a store; copy them to this machine"
        )
    small = _pictures_among(own, slides)
    left_out += [left_out_as_small(PurePosixPath(name)) for name in own if name in small]
    own = [name for name in own if name not in small]
    there = {f"{url}/{name}" for name in names}
    urls = [f"{url}/{name}" for name in own]
    ids = distinct_ids(urls, own, known, lambda uri: uri in there if uri.startswith(f"{url}/") else is_there(uri))
    return StoreListing(tuple(map(StoredSlide, ids, urls)), tuple(left_out))


def _is_hidden(name: PurePosixPath) -> bool:
    """Whether an object is an unfinished upload, a server's own, or a picture that a build of this project wrote."""
    return name.name.startswith(".") or any(folder in OWN_FOLDERS or is_hidden(folder) for folder in name.parts[:-1])


def _pictures_among(names: Sequence[str], slides: Sequence[str]) -> set[str]:
    """Of slides and images, those that are pictures of a slide beside them, by the rules for files."""
    beside: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for slide in map(PurePosixPath, slides):
        beside[slide.parent].append(slide)
    found = set()
    for name in names:
        path = PurePosixPath(name)
        is_one = is_small_picture if slide_suffix(name) else is_picture_of
        if is_one(path, beside[path.parent]):
            found.add(name)
    return found
