"""What a build did, in words a newcomer understands."""

from dataclasses import dataclass

from muse_core.cohort.paths import RunPaths
from muse_core.cohort.records import SlideRecord
from muse_core.cohort.summary import CohortSummary
from muse_core.machine.files import whole_file

SHOWN_FAILURES = 20


@dataclass
class BuildSummary(CohortSummary):
    """Of a run of build-tcga-nu."""

    n_rois: int = 0

    def add(self, record: SlideRecord) -> None:
        """Count one slide."""
        super().add(record)
        self.n_rois += record.row.get("n_rois") or 0


def write_summary(paths: RunPaths, summary: BuildSummary, *, things: str = "slides") -> str:
    """Write `summary.md` and return its text; `things` is the word for what was built.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    text = summary_text(paths, summary, things=things)
    with whole_file(paths.summary) as path:
        path.write_text(text, encoding="utf-8")
    return text


def summary_text(paths: RunPaths, summary: BuildSummary, *, things: str = "slides") -> str:
    """Markdown: what was built, where it is, what failed and why, and what to do next."""
    total = summary.slides_done + summary.slides_failed + summary.slides_skipped
    lines = [
        f"# {summary.slides_done} of {total} {things} built",
        "",
        f"- {summary.n_rois:,} ROIs and {summary.n_nuclei:,} nuclei{_tissue(summary)}",
        f"- {summary.slides_reused} {things} were finished by an earlier run, {summary.slides_skipped} hold nothing to "
        f"build from, {summary.slides_failed} failed",
        f"- {summary.seconds:.1f} s{_pace(summary)}, at most {summary.peak_rss_bytes / 2**30:.2f} GiB of memory",
        "",
        f"{things.capitalize() + ', one row each:':<23} {paths.slides_table}",
        f"ROIs with their nuclei: {paths.out / 'rois'}",
    ]
    if (paths.out / "contact_sheets").exists():
        lines.append(f"Pictures to look at:    {paths.out / 'contact_sheets'}")
    if summary.slides_earlier:
        lines += ["", f"The folder and its tables also hold {summary.slides_earlier} slides of earlier manifests."]
    if summary.failures:
        lines += ["", f"Failed {things} (mend them and run the same command again; the others are not redone):", ""]
        lines += [
            f"- {failure['slide_id']}: {failure['reason']}: {failure['message']}"
            for failure in summary.failures[:SHOWN_FAILURES]
        ]
    if len(summary.failures) > SHOWN_FAILURES:
        lines.append(f"- and {len(summary.failures) - SHOWN_FAILURES} more: see slides.parquet")
    return "\n".join(lines) + "\n"


def _tissue(summary: BuildSummary) -> str:
    return f" on {summary.tissue_mm2:,.2f} mm² of tissue" if summary.tissue_mm2 else ""


def _pace(summary: BuildSummary) -> str:
    return "" if summary.seconds_per_mm2 is None else f", {summary.seconds_per_mm2:.2f} s/mm²"
