"""The report of a cohort that grows."""

import os
import shutil

from muse_core.report.digest import digest_text, refresh_report
from tests.report.conftest import slide_row, write_table


def test_classes_are_counted_over_all_slides(inferred, drawn):
    text = digest_text(inferred)
    assert text.startswith(f"1 slides, {len(drawn[1]):,} nuclei, 1.20 mm² of tissue")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    assert sum(int(row[1].replace(",", "")) for row in rows) == len(drawn[1])
    assert abs(sum(float(row[2].strip().rstrip("%")) for row in rows) - 100) < 0.3


def test_the_page_is_written_again_when_a_slide_was_done(inferred, tmp_path):
    page = tmp_path / "page.html"
    record = inferred / "records" / "S1.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text("{}")
    os.utime(record, (1e9, 1e9))
    assert refresh_report(inferred, page) == page.as_uri()
    os.utime(page, (2e9, 2e9))
    refresh_report(inferred, page)
    assert page.stat().st_mtime == 2e9
    os.utime(record, (3e9, 3e9))
    refresh_report(inferred, page)
    assert page.stat().st_mtime != 2e9
    record.unlink()


def test_nothing_finished_is_nothing_to_report(tmp_path):
    assert refresh_report(tmp_path) is None
    assert digest_text(tmp_path) == ""
    assert not list(tmp_path.iterdir())


def test_nuclei_kept_of_a_slide_that_failed_since_are_nothing_to_report(inferred, tmp_path):
    out = shutil.copytree(inferred, tmp_path / "out")
    write_table(out, [slide_row("S1", status="failed", reason="unreadable")])
    assert refresh_report(out) is None
    assert digest_text(out) == ""
    assert not (out / "report.html").exists()
