"""Who watches a run over slides; light, so that the command line has it without readers of slides."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muse_core.cohort.manifest import Manifest
    from muse_core.cohort.records import SlideRecord


class Watcher:
    """Told how a run comes on; this one keeps it to itself. Called from several threads."""

    def begin(self, manifest: "Manifest") -> None:
        """The run begins; its slides and what is wrong with others are known."""

    def pieces(self, count: int) -> None:
        """So many more pieces of slides are done: ROIs of a build, tiles of an inference."""

    def slide(self, record: "SlideRecord") -> None:
        """A slide is done, or is known not to be."""


NOBODY = Watcher()
