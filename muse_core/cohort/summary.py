"""What a run over many slides came to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from muse_core.cohort.records import SlideRecord


@dataclass
class CohortSummary:
    """Counts over the slides of one run, in the words of the commands' JSON.

    `slides_earlier` counts slides of earlier manifests that are in the folder too.
    `seconds_per_mm2` is over the tissue that this run did, not what an earlier one had finished; None for nothing.
    """

    slides_done: int = 0
    slides_failed: int = 0
    slides_skipped: int = 0
    slides_reused: int = 0
    slides_earlier: int = 0
    n_nuclei: int = 0
    tissue_mm2: float = 0.0
    seconds: float = 0.0
    seconds_per_mm2: float | None = None
    peak_rss_bytes: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def add(self, record: SlideRecord) -> None:
        """Count one slide."""
        row = record.row
        self.slides_done += record.status == "done"
        self.slides_failed += record.status == "failed"
        self.slides_skipped += record.status == "skipped"
        self.slides_reused += record.reused
        self.n_nuclei += row.get("n_nuclei") or 0
        self.tissue_mm2 += row.get("tissue_mm2") or 0.0
        if record.status == "failed":
            self.failures.append({key: str(row.get(key) or "") for key in ("slide_id", "reason", "message")})

    def what_failed(self) -> list[str]:
        """What the run could not do, in words; with any, its command exits 1 and its flow ends failed."""
        return [f"{self.slides_failed} slides failed"] if self.slides_failed else []


AnySummary = TypeVar("AnySummary", bound=CohortSummary)


def summarise(records: Iterable[SlideRecord], summary: AnySummary) -> AnySummary:
    """Add records up, by slide id: counts, tissue and failures; the run fills in its time and memory."""
    for record in sorted(records, key=lambda record: record.slide_id):
        summary.add(record)
    return summary
