"""No mark is lost: torn lines, marks sent twice, two servers, and what is taken back."""

import json

from muse_core.viewer.journal import JOURNAL_NAME, Journal
from muse_core.viewer.marks import NucleusMark, SentMark, UndoMark, in_force


def sent(number: int, **changes) -> SentMark:
    values = {"slide_id": "S1", "x": 10.0 + number, "y": 5.0, "class_name": "stromal"} | changes
    return SentMark(id=f"mark-{number:06d}", mark=NucleusMark(**values))


def undo(number: int, of: int) -> SentMark:
    return SentMark(id=f"undo-{number:06d}", mark=UndoMark(slide_id="S1", of=of))


def test_marks_come_back_in_their_order_with_who_and_when(tmp_path):
    journal = Journal(tmp_path / "lab")
    kept = journal.append([sent(1), sent(2)], "Ada")
    assert [(entry.n, entry.who, entry.mark.x) for entry in kept] == [(1, "Ada", 11.0), (2, "Ada", 12.0)]
    assert kept[0].at.startswith("20")
    assert Journal(tmp_path / "lab").entries() == kept
    assert journal.entries(after=1) == kept[1:]


def test_a_mark_sent_twice_is_kept_once(tmp_path):
    journal = Journal(tmp_path)
    first = journal.append([sent(1)], "Ada")
    again = journal.append([sent(1), sent(2)], "Ada")
    assert again[0] == first[0]
    assert len((tmp_path / JOURNAL_NAME).read_text().splitlines()) == 2


def test_two_servers_write_into_one_journal(tmp_path):
    one, other = Journal(tmp_path), Journal(tmp_path)
    for number in range(0, 20, 2):
        one.append([sent(number)], "Ada")
        other.append([sent(number + 1)], "Bo")
    assert [entry.n for entry in one.entries()] == list(range(1, 21))
    assert one.entries() == other.entries() == Journal(tmp_path).entries()


def test_a_line_that_a_killed_server_left_unfinished_hides_no_other(tmp_path):
    journal = Journal(tmp_path)
    journal.append([sent(1)], "Ada")
    path = tmp_path / JOURNAL_NAME
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    restarted = Journal(tmp_path)
    assert len(restarted.entries()) == 1
    assert [entry.n for entry in restarted.append([sent(2)], "Ada")] == [2]
    assert [entry.mark.x for entry in Journal(tmp_path).entries()] == [11.0, 12.0]
    assert all(json.loads(line) for line in (path.read_text().splitlines()[0], path.read_text().splitlines()[-1]))


def test_undo_takes_back_and_can_be_taken_back(tmp_path):
    journal = Journal(tmp_path)
    journal.append([sent(1), sent(2), undo(1, of=1)], "Ada")
    assert [entry.n for entry in in_force(journal.entries())] == [2]
    journal.append([undo(2, of=3)], "Ada")
    assert [entry.n for entry in in_force(journal.entries())] == [1, 2]
