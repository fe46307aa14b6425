"""Which objects below a URL are slides, and what each is called."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from muse_core.cohort.manifest.tcga import slide_ids
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
    names = sorted(name for name in ObjectFolder(url).sizes() if not PurePosixPath(name).name.startswith("."))
    several = [name for name in names if slide_suffix(name) in _OF_SEVERAL_FILES]
    own = [name for name in names if name not in set(several)]
    own = [name for name in own if slide_suffix(name) or PurePosixPath(name).suffix.lower() in suffixes]
    left_out = []
    if several:
        left_out.append(
            f"{several[0]} and {len(several) - 1} others like it are left out: slides of several files "
            "are not fetched from a store; copy them to this machine"
        )
    ids = zip(own, _distinct(own), strict=True)
    return StoreListing(
        tuple(StoredSlide(known.get(f"{url}/{name}") or slide_id, f"{url}/{name}") for name, slide_id in ids),
        tuple(left_out),
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """The shortest of stem, file name and path that no other has."""
    candidates = list(zip(slide_ids(names), (PurePosixPath(name).name for name in names), names, strict=True))
    times = Counter(name for own in candidates for name in set(own))
    return [next((name for name in own if times[name] == 1), own[-1]) for own in candidates]
