"""A watched folder, look by look, with a clock of the test's own."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from muse_core.cohort.inbox import read_inbox
from muse_core.cohort.manifest import Manifest, ManifestRow
from muse_core.cohort.records import SlideRecord

HOUR = 3600.0


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(path: Path, content: bytes) -> None:
    """As a copy that keeps the old time does."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))


def listed(folder: Path) -> Manifest:
    files = sorted(one for one in folder.iterdir() if one.is_file())
    return Manifest(
        tuple(ManifestRow(n, one.stem, one.stem, "P", str(one), None, None, None) for n, one in enumerate(files)), ()
    )


def look(folder: Path, at: float, *, settled_s: float = 600.0):
    """The inbox as a run that begins at `at` finds it, kept; and the ids that are due."""
    inbox = read_inbox(folder.parent / "inbox.json", at)
    due = inbox.due(listed(folder), settled_s=settled_s)
    inbox.keep()
    return inbox, [row.slide_id for row in due.rows]


def end(inbox, folder: Path, due: list[str], failed: dict[str, str]) -> list[str]:
    """The run ends: `failed` are reasons by id. What is new."""
    uris = {row.slide_id: row.uri for row in listed(folder).rows}
    records = [
        SlideRecord({"slide_id": one, "uri": uris[one], "status": "failed" if one in failed else "done"}) for one in due
    ]
    failures = [{"slide_id": one, "reason": reason, "message": "why"} for one, reason in failed.items()]
    news = inbox.judge(records, failures)
    inbox.keep()
    return news


def test_a_slide_is_taken_once_two_looks_found_it_the_same(folder):
    put(folder / "a.svs", b"half")
    assert look(folder, 0.0)[1] == [], "an old time stamp tells nothing of a copy that has not ended"
    put(folder / "a.svs", b"half and more")
    assert look(folder, 900.0)[1] == []
    put(folder / "a.svs", b"half and MORE")  # the same size and time: written in place
    assert look(folder, 1800.0)[1] == []
    assert look(folder, 1800.0 + 599)[1] == [], "not long enough"
    assert look(folder, 1800.0 + 600)[1] == ["a"]
    assert look(folder, 9999.0)[1] == ["a"], "and from then on, for runs to find it finished"
    put(folder / "b.svs", b"new")
    assert look(folder, 9999.0, settled_s=0.0)[1] == ["a", "b"], "0 asks nobody to wait"


def test_all_files_of_a_slide_must_have_settled(folder):
    put(folder / "m.mrxs", b"index")
    put(folder / "m" / "Data0000.dat", b"pixels")
    look(folder, 0.0)
    put(folder / "m" / "Data0001.dat", b"more pixels")
    assert look(folder, 900.0)[1] == []
    assert look(folder, 1800.0)[1] == ["m"]


def test_a_broken_file_is_told_once_and_tried_with_growing_pauses(folder):
    put(folder / "bad.svs", b"no slide")
    put(folder / "good.svs", b"slide")
    now, tried, told = 0.0, [], []
    while now < 100 * HOUR:
        inbox, due = look(folder, now, settled_s=0.0)
        assert "good" in due
        if "bad" in due:
            tried.append(now / HOUR)
            told += end(inbox, folder, due, {"bad": "unreadable"})
        else:
            assert end(inbox, folder, due, {}) == []
        now += HOUR / 4
    assert tried == [0, 1, 3, 7, 15, 31, 55, 79], "after 1, 2, 4, 8, 16, 24, 24 hours"
    assert told == ["bad: unreadable: why"]
    ((slide_id, kept),) = read_inbox(folder.parent / "inbox.json", now).waiting()
    assert (slide_id, kept.reason, kept.message, kept.tries) == ("bad", "unreadable", "why", 8)


def test_another_file_or_reason_is_news_and_a_mended_file_is_taken_at_once(folder):
    put(folder / "bad.svs", b"no slide")
    inbox, due = look(folder, 0.0, settled_s=0.0)
    assert end(inbox, folder, due, {"bad": "unreadable"}) != []
    inbox, due = look(folder, HOUR, settled_s=0.0)
    assert end(inbox, folder, due, {"bad": "mpp_missing"}) == ["bad: mpp_missing: why"]
    put(folder / "bad.svs", b"other, as bad")
    inbox, due = look(folder, HOUR + 60, settled_s=0.0)
    assert due == ["bad"], "not after a pause: it is another file"
    assert end(inbox, folder, due, {"bad": "mpp_missing"}) != []
    put(folder / "bad.svs", b"a slide")
    inbox, due = look(folder, HOUR + 120, settled_s=0.0)
    assert end(inbox, folder, due, {}) == []
    assert inbox.waiting() == []


def test_what_cannot_be_begun_is_told_once_too_and_what_is_gone_is_forgotten(folder):
    put(folder / "bad.svs", b"no slide")
    inbox, due = look(folder, 0.0, settled_s=0.0)
    wrong = {"bad": "unreadable", "(row 3)": "manifest_invalid"}
    assert len(end(inbox, folder, due, wrong)) == 2
    inbox, due = look(folder, 60.0, settled_s=0.0)
    assert due == []
    assert end(inbox, folder, due, {"(row 3)": "manifest_invalid"}) == []
    (folder / "bad.svs").unlink()
    inbox, due = look(folder, 120.0, settled_s=0.0)
    assert end(inbox, folder, due, {}) == []
    assert inbox.waiting() == []


@pytest.mark.parametrize("what", [{"mpp": 0.25}, {"scene": 2}, {"version": "etag 2"}, {"md5": "0" * 32}, "settings"])
@pytest.mark.parametrize("uri", ["s.svs", "s3://b/s.svs"])
def test_another_row_version_or_setting_is_tried_at_once(folder, uri, what):
    put(folder / "s.svs", b"no slide")
    uri = uri if "://" in uri else str(folder / uri)
    row = ManifestRow(1, "s", "s", "P", uri, None, None, None, version="etag 1")

    def tried(at: float, row: ManifestRow, settings: str = "a") -> bool:
        inbox = read_inbox(folder.parent / "inbox.json", at)
        due = inbox.due(Manifest((row,), ()), settled_s=0.0, depends_on=[settings]).rows
        records = [SlideRecord({"slide_id": "s", "uri": uri, "status": "failed"}) for _ in due]
        inbox.judge(records, [{"slide_id": "s", "reason": "mpp_missing", "message": "why"} for _ in due])
        inbox.keep()
        return bool(due)

    assert tried(0.0, row)
    assert not tried(60.0, row)
    assert tried(120.0, row, "b") if what == "settings" else tried(120.0, replace(row, **what))


def test_settings_do_not_unsettle_a_file(folder):
    put(folder / "a.svs", b"whole")
    look(folder, 0.0)
    inbox = read_inbox(folder.parent / "inbox.json", 900.0)
    assert len(inbox.due(listed(folder), settled_s=600.0, depends_on=["other"]).rows) == 1


def test_a_torn_record_is_an_empty_inbox(folder):
    (folder.parent / "inbox.json").write_text('{"seen": {"a": 3')
    assert look(folder, 0.0, settled_s=0.0)[1] == []
    (folder.parent / "inbox.json").write_text('{"seen": {"a": 3}, "quarantine": {}}')
    assert read_inbox(folder.parent / "inbox.json", 1.0).seen == {}
