"""Files of polygons that people made for slides, found in a folder under the names that people give them."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.uris import path_of
from muse_core.errors import ConfigError
from muse_core.machine.files import normal_form, safe_name

logger = logging.getLogger(__name__)

_SUFFIXES = (".geojson", ".geo.json", ".json")
_SHOWN = 5  # names in a message


class PolygonFiles:
    """The GeoJSON files of a folder and below, each of the slide that it is named after.

    A slide S1 of the file `a b.ome.tif` is found by `S1.geojson`, as our own outputs name it, by `a b.geojson` and `a
    b.ome.tif.geojson`, as QuPath and people do, in either Unicode form and, where no other fits, in other case.

    Args:
        folder: where they lie; None for no file at all.
        option: of the command, for messages.
    """

    def __init__(self, folder: Path | None, option: str) -> None:
        self._folder, self._option = folder, option
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_folded: dict[str, list[Path]] = defaultdict(list)
        if folder is None:
            return
        for path in sorted(_listed(folder)):
            name = normal_form(path.relative_to(folder).as_posix())
            suffix = next(one for one in _SUFFIXES if name.lower().endswith(one))
            self._by_name[name[: -len(suffix)]].append(path)
            self._by_folded[name[: -len(suffix)].casefold()].append(path)

    def of(self, row: ManifestRow) -> Path | None:
        """The file of a slide, absolute; None where there is none.

        Raises:
            ConfigError: two files would do.
        """
        names = list(_names_of(row))
        found = [self._by_name[name] for name in names if name in self._by_name]
        found += [self._by_folded[name.casefold()] for name in names if name.casefold() in self._by_folded]
        if not found:
            return None
        if len(found[0]) > 1:
            first, second, *_ = found[0]
            raise ConfigError(f"{first}: {second.name} is of slide {row.slide_id} too; keep one of them")
        return found[0][0].absolute()

    def check(self, rows: Iterable[ManifestRow]) -> None:
        """Name files that are of no slide, which nobody should take for used.

        Raises:
            ConfigError: a file fits two slides.
        """
        if self._folder is None:
            return
        slide_of: dict[Path, str] = {}
        for row in rows:
            path = self._of_or_none(row)
            if path is not None and (other := slide_of.setdefault(path, row.slide_id)) != row.slide_id:
                raise ConfigError(
                    f"{path}: fits slide {other} and slide {row.slide_id}; name it after one slide_id, "
                    f"such as {safe_name(row.slide_id)}.geojson"
                )
        unused = [one for files in self._by_name.values() for one in files if one.absolute() not in slide_of]
        if unused:
            names = ", ".join(one.relative_to(self._folder).as_posix() for one in unused[:_SHOWN])
            more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
            logger.warning(
                "%s %s: not used, as no slide here has that name: %s%s; files are named <slide_id>.geojson",
                self._option,
                self._folder,
                names,
                more,
            )

    def _of_or_none(self, row: ManifestRow) -> Path | None:
        try:
            return self.of(row)
        except ConfigError:
            return None  # that slide's own row will say so


def _listed(folder: Path) -> Iterable[Path]:
    """Its GeoJSON; what starts with a dot is none, such as the `._` that macOS puts beside a file."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.lower().endswith(_SUFFIXES) and not hidden and path.is_file():
            yield path


def _names_of(row: ManifestRow) -> Iterable[str]:
    """What a slide's file may be called without its suffix, the likeliest first."""
    yield normal_form(row.slide_id)
    yield safe_name(row.slide_id)
    path = path_of(row.uri)
    name = normal_form(unquote(row.uri.partition("?")[0].rpartition("/")[2]) if path is None else path.name)
    stem = name.rpartition(".")[0]
    yield from (one for one in (name, stem, stem.removesuffix(".ome")) if one)
