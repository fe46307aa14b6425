"""The report of a cohort that grows: written again when the cohort changed, and its first lines as Markdown."""

from collections.abc import Callable
from pathlib import Path

from muse_core.cohort.objects import ObjectFolder
from muse_core.cohort.output import Output, output_of
from muse_core.cohort.paths import RunPaths
from muse_core.errors import DatasetError
from muse_core.nuclei_dataset import NucleiDataset, cohort_summary, has_parts, pooled_density
from muse_core.report.page import write_report

REPORT_NAME = "report.html"


def refresh_report(
    output: Output | str | Path, path: Path | None = None, *, on_slide: Callable[[int, int], None] | None = None
) -> str | None:
    """Write the report of all slides in a folder, unless it is there already and no slide was done since.

    Args:
        output: the folder that inference wrote.
        path: the HTML file; None for `OUT/report.html`, in the store where the folder lives in one.
        on_slide: told how many sections of how many are done.

    Returns:
        The HTML file's URL; None where no slide is finished, so that there is nothing to report.

    Raises:
        DatasetError: a file of the dataset is damaged.
        OutputError: the disk is full or the folder cannot be written.
    """
    output = _output(output)
    if not has_nuclei(output):
        return None
    page = path or output.path / REPORT_NAME
    stale = not page.exists() or page.stat().st_mtime_ns <= _changed_ns(output.path)
    if stale:
        write_report(output.url or output.path, page, on_slide=on_slide)
    if output.url is None or path is not None:
        return page.absolute().as_uri()
    if stale:
        ObjectFolder(output.url).upload(page, REPORT_NAME)
    return f"{output.url}/{REPORT_NAME}"


def has_nuclei(output: Output) -> bool:
    """Whether any slide of a folder that inference wrote is finished, not only kept from before it failed."""
    if output.url is None and not has_parts(output.path):
        return False
    try:
        slides = NucleiDataset(output.url or output.path).slides()
    except DatasetError:
        if output.url is None:
            raise
        return False
    return slides is None or "done" in slides["status"].to_pylist()


def digest_text(output: Output | str | Path) -> str:
    """Markdown: nuclei, share and density of each class over all slides of a folder; empty where none is finished.

    Raises:
        DatasetError: a file of the dataset is damaged.
    """
    output = _output(output)
    if not has_nuclei(output):
        return ""
    dataset = NucleiDataset(output.url or output.path)
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


def _output(given: Output | str | Path) -> Output:
    return given if isinstance(given, Output) else output_of(given)


def _changed_ns(out: Path) -> int:
    """When the last slide of the folder was put on record."""
    records = RunPaths(out).records.glob("*.json")
    return max((record.stat().st_mtime_ns for record in records), default=0)
