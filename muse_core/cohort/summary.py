"""What a run over many slides came to: counts for JSON, and in words that a newcomer understands."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord
from muse_core.machine.files import whole_file

SHOWN_FAILURES = 20


@dataclass
class CohortSummary:
    """Counts over the slides of one run, in the words of the commands' JSON.

    `things` is the word for what the run is over, `verb` for what was done to them.
    `slides_earlier` counts slides of earlier manifests that are in the folder too.
    `seconds_per_mm2` is over the tissue that this run did, not what an earlier one had finished; None for nothing.
    """

    things: ClassVar[str] = "slides"
    verb: ClassVar[str] = "done"

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

    def found(self) -> str:
        """What was found, in words."""
        return f"{self.n_nuclei:,} nuclei{self._on_tissue()}"

    def remarks(self) -> list[str]:
        """What else there is to say of the slides, a line each."""
        return []

    def pace(self) -> str:
        """The time the run took, in words."""
        pace = "" if self.seconds_per_mm2 is None else f", {self.seconds_per_mm2:.2f} s/mm²"
        return f"{self.seconds:.1f} s{pace}"

    def places(self, paths: RunPaths) -> dict[str, object]:
        """Where things are: what, and its path."""
        return {f"{self.things.capitalize()}, one row each": paths.slides_table}

    def _on_tissue(self) -> str:
        return f" on {self.tissue_mm2:,.2f} mm² of tissue" if self.tissue_mm2 else ""


AnySummary = TypeVar("AnySummary", bound=CohortSummary)


def summarise(records: Iterable[SlideRecord], summary: AnySummary) -> AnySummary:
    """Add records up, by slide id: counts, tissue and failures; the run fills in its time and memory."""
    for record in sorted(records, key=lambda record: record.slide_id):
        summary.add(record)
    return summary


def write_summary(paths: RunPaths, summary: CohortSummary) -> None:
    """Write `summary.md` and `summary.json`.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with whole_file(paths.summary) as path:
        path.write_text(summary_text(summary, paths), encoding="utf-8")
    with whole_file(paths.summary.with_suffix(".json")) as path:
        path.write_text(json.dumps(summary.as_json(), indent=2), encoding="utf-8")


def summary_text(summary: CohortSummary, paths: RunPaths) -> str:
    """Markdown: what was done, at what pace, where it is, what failed and why, and what to do next."""
    things, places = summary.things, summary.places(paths)
    total = summary.slides_done + summary.slides_failed + summary.slides_skipped
    width = max(map(len, places)) + 1
    lines = [
        f"# {summary.slides_done} of {total} {things} {summary.verb}",
        "",
        f"- {summary.found()}",
        f"- {summary.slides_reused} {things} were finished by an earlier run, {summary.slides_skipped} hold nothing to "
        f"work on, {summary.slides_failed} failed",
        *(f"- {remark}" for remark in summary.remarks()),
        f"- {summary.pace()}, at most {summary.peak_rss_bytes / 2**30:.2f} GiB of memory",
        "",
        *(f"{what + ':':<{width}} {paths.shown(path)}" for what, path in places.items()),
    ]
    if summary.slides_earlier:
        lines += ["", f"The folder and its tables also hold {summary.slides_earlier} slides of earlier manifests."]
    return "\n".join(lines + _failures(summary)) + "\n"


def _failures(summary: CohortSummary) -> list[str]:
    if not summary.failures:
        return []
    what_next = "mend them and run the same command again; the others are not redone"
    shown = [f"- {one['slide_id']}: {one['reason']}: {one['message']}" for one in summary.failures[:SHOWN_FAILURES]]
    if (more := len(summary.failures) - SHOWN_FAILURES) > 0:
        shown.append(f"- and {more} more: see slides.parquet")
    return ["", f"Failed {summary.things} ({what_next}):", "", *shown]
