"""What slides without an id of their own are called: the same in every run, and never as another slide of an output."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from muse_core.cohort.manifest.tcga import slide_ids
from muse_core.cohort.uris import path_of, path_text, public_uri
from muse_core.machine.files import normal_form

_SCENE = re.compile(r"#scene=[0-9]+$")


def is_there(uri: str) -> bool:
    """Whether a slide of an earlier run may still be where it was; one that is elsewhere counts as being there."""
    path = path_of(uri)
    return path is None or os.path.exists(path)  # False, and no error, for a name too long to be one


def scene_key(uri: str, scene: int | None) -> str:
    """What a slide's id is known by: its URI, or where one of several pictures was asked for, one beside it."""
    return uri if scene is None else f"{uri}#scene={scene}"


def distinct_ids(
    uris: Sequence[str],
    names: Sequence[str],
    known: Mapping[str, str],
    there: Callable[[str], bool] = is_there,
) -> list[str]:
    """An id a slide: the one that it has had, else the shortest of stem, file name and path that no other has.

    Where all of them are another slide's, which two folders given one after the other may come to, it is the whole URI.

    Args:
        uris: absolute paths or URLs.
        names: each one's path below the folder that was given.
        known: ids of earlier runs by URI; they stay, whatever else has appeared since; of scenes by `scene_key`.
        there: whether a slide of an earlier run still exists: the id of one that is gone is free.
    """
    own_uris = [public_uri(uri) for uri in uris]
    here = set(own_uris)
    holders: dict[str, set[str]] = defaultdict(set)
    for key, slide_id in known.items():
        uri = _SCENE.sub("", key)
        if uri in here or there(uri):
            holders[normal_form(slide_id)].add(uri)
    candidates = list(zip(slide_ids(names), (PurePosixPath(name).name for name in names), names, strict=True))
    times = Counter(name for own in candidates for name in set(own))

    def chosen(uri: str, own: tuple[str, str, str]) -> str:
        free = [name for name in own if not holders.get(normal_form(name), set()) - {uri}]
        last = own[-1] if own[-1] in free else path_text(Path(uri.rpartition("://")[2]))
        return next((name for name in free if times[name] == 1), last)

    return [known.get(uri) or chosen(uri, own) for uri, own in zip(own_uris, candidates, strict=True)]
