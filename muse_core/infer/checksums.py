"""The md5 of slides on this machine, kept beside the dataset: a slide is read for it once, not on every rerun."""

import json
from pathlib import Path

from muse_core.machine.files import safe_name, whole_file
from muse_core.slide.file_set import files_of_slide, md5_of_slide


class Checksums:
    """Checksums of files by slide, taken again where any file's path, size or time of change differs.

    Args:
        folder: where they are kept, one JSON a slide.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def md5(self, slide_id: str, path: Path) -> str:
        """The md5 of a slide's file, in hex; of a slide of several files, of all of them.

        Raises:
            OSError: the file cannot be read.
            OutputError: the checksum cannot be kept.
        """
        found = path.stat()
        state: dict[str, object] = {
            "path": str(path.absolute()),
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
        }
        if others := files_of_slide(path)[1:]:
            state["others"] = [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in others]
        kept = self._folder / f"{safe_name(slide_id)}.json"
        known = _read(kept)
        if known is not None and {key: known.get(key) for key in state} == state:
            return str(known["md5"])
        md5 = md5_of_slide(path)
        with whole_file(kept) as temporary:
            temporary.write_text(json.dumps({**state, "md5": md5}), encoding="utf-8")
        return md5


def _read(path: Path) -> dict[str, object] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and "md5" in values else None
