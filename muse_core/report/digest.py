"""The report of a cohort that grows: written again when the cohort changed, and its first lines as Markdown."""

from collections.abc import Callable
from pathlib import Path

from muse_core.cohort.paths import RunPaths
from muse_core.nuclei_dataset import NucleiDataset, cohort_summary, has_parts, pooled_density
from muse_core.report.page import write_report

REPORT_NAME = "report.html"


def refresh_report(
    out: Path, path: Path | None = None, *, on_slide: Callable[[int, int], None] | None = None
) -> Path | None:
    """Write the report of all slides in a folder, unless it is there already and no slide was done since.

    Args:
        out: the folder that inference wrote.
        path: the HTML file; None for `OUT/report.html`.
        on_slide: told how many sections of how many are done.

    Returns:
        The HTML file; None where no slide is finished, so that there is nothing to report.

    Raises:
        DatasetError: a file of the dataset is damaged.
        OutputError: the disk is full or the folder cannot be written.
    """
    path = path or out / REPORT_NAME
    if not has_nuclei(out):
        return None
    if not path.exists() or path.stat().st_mtime_ns <= _changed_ns(out):
        write_report(out, path, on_slide=on_slide)
    return path


def has_nuclei(out: Path) -> bool:
    """Whether any slide of a folder that inference wrote is finished, not only kept from before it failed."""
    if not has_parts(out):
        return False
    slides = NucleiDataset(out).slides()
    return slides is None or "done" in slides["status"].to_pylist()


def digest_text(out: Path) -> str:
    """Markdown: nuclei, share and density of each class over all slides of a folder; empty where none is finished.

    Raises:
        DatasetError: a file of the dataset is damaged.
    """
    if not has_nuclei(out):
        return ""
    dataset = NucleiDataset(out)
    rows = cohort_summary(dataset).to_pylist()
    total, mm2 = sum(row["n_nuclei"] for row in rows), sum(row["tissue_mm2"] or 0.0 for row in rows)
    lines = [f"{len(rows):,} slides, {total:,} nuclei, {mm2:,.2f} mm² of tissue", ""]
    lines += ["| class | nuclei | share | per mm² of tissue |", "|---|---:|---:|---:|"]
    for name in dataset.class_names:
        count = sum(row.get(f"n_{name}") or 0 for row in rows)
        per_mm2 = pooled_density(rows, name)
        density = "" if per_mm2 is None else f"{per_mm2:,.0f}"
        lines.append(f"| {name} | {count:,} | {count / max(total, 1):.1%} | {density} |")
    return "\n".join(lines) + "\n"


def _changed_ns(out: Path) -> int:
    """When the last slide of the folder was put on record."""
    records = RunPaths(out).records.glob("*.json")
    return max((record.stat().st_mtime_ns for record in records), default=0)
