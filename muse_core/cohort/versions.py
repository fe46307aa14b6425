"""Which version of an object a slide is, where its row gives no md5: told by ETag and size, or size and time."""

from dataclasses import replace
from threading import Lock

from muse_core.cohort.manifest import ManifestRow
from muse_core.cohort.objects import ObjectFolder, is_object_url, parent_and_name
from muse_core.errors import AcquireError, ConfigError, OutputError

_LISTED_FROM = 3  # so many slides of a folder are asked for one by one; from then on the folder is listed, once a run


class Versions:
    """Looks objects up; usable from many threads. A run has one, so that it sees each object in one version."""

    def __init__(self) -> None:
        self._alone = Lock()
        self._asked: dict[str, int] = {}
        self._known: dict[str, str | None] = {}

    def of(self, row: ManifestRow) -> ManifestRow:
        """A row with its object's version; as it is where it gives an md5 or its slide is no object.

        Raises:
            AcquireError: the store cannot be asked.
        """
        if row.md5 is not None or not is_object_url(row.uri):
            return row
        with self._alone:
            try:
                return replace(row, version=self._version(row.uri))
            except (OutputError, ConfigError) as error:
                raise AcquireError(str(error), reason="source_invalid") from error

    def _version(self, url: str) -> str | None:
        """None for an object that is not there, which fetching it will say."""
        if url in self._known:
            return self._known[url]
        parent, name = parent_and_name(url)
        folder = ObjectFolder(parent)
        self._asked[parent] = self._asked.get(parent, 0) + 1
        if self._asked[parent] == _LISTED_FROM:
            found = {f"{parent}/{one}": state for one, state in folder.states().items() if "/" not in one}
            self._known = {**found, **self._known}
        if url not in self._known:
            self._known[url] = folder.state(name)
        return self._known[url]
