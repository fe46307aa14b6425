"""Several runs on one output: each slide once, none lost when a run dies, tables as of a run alone."""

import json
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from muse_core.cohort.heartbeat import SILENT_S, own_facts
from muse_core.cohort.records import read_record
from muse_core.cohort.sharing import FOLDER, Sharing, SlideTakenError
from muse_core.cohort.shelf import DiskFolder
from muse_core.cohort.status import read_status, status_text
from muse_core.errors import OutputError
from tests.cohort.test_home import contents
from tests.cohort.toy_work import do_toys, toy_manifest, toy_run

ELSEWHERE = replace(own_facts("infer", "w"), kernel="another 1", shares=True)


@pytest.fixture
def slides(tmp_path) -> dict[str, str]:
    (tmp_path / "slides").mkdir()
    found = {}
    for number in range(12):
        path = tmp_path / "slides" / f"{number}.svs"
        path.write_text("abcdef"[: 1 + number % 4])
        found[f"S {number}/ü"] = str(path)
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shelf(tmp_path) -> DiskFolder:
    return DiskFolder(tmp_path / "out")


def row_ids(rows) -> list[str | None]:
    return [None if row is None else row.slide_id for row in rows]


def share_slides(out: str, slides: dict[str, str], log: Path, other_log: Path) -> None:
    """What one process does: each slide takes a moment, for a kill to hit some, and none is done before both work."""

    def before(slide_id: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{slide_id}\n")
        while not other_log.exists():
            time.sleep(0.01)
        time.sleep(0.1)

    do_toys(out, slides, share=True, before=before)
    os._exit(0)  # what other tests of the parent left to be ended at an exit is not this process's to end


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_two_processes_share_and_one_is_killed(place, slides, tmp_path, request, monkeypatch):
    monkeypatch.setattr("muse_core.cohort.suspects.death_of", lambda path, **_: None)  # toys have no reader to die
    out = str(tmp_path / "shared") if place == "folder" else f"{request.getfixturevalue('bucket')}/out"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    fork = multiprocessing.get_context("fork")  # no second import of everything
    first, second = (fork.Process(target=share_slides, args=(out, slides, *order)) for order in (logs, logs[::-1]))
    first.start()
    second.start()
    try:
        until = time.monotonic() + 120
        while not all(log.exists() for log in logs):
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.2)  # some slides of each are done, some in work
        first.kill()
        first.join()
        second.join(120)
        assert second.exitcode == 0
    finally:
        for process in (first, second):
            process.kill()
            process.join()
    by_first, by_second = (Counter(log.read_text().splitlines()) for log in logs)
    assert set(by_first | by_second) == set(slides), "none is lost"
    assert max(by_second.values()) == 1
    assert sum((by_first & by_second).values()) <= 5, "the living one did again what the killed one had in work"
    do_toys(str(tmp_path / "alone"), slides)
    assert contents(out) == contents(str(tmp_path / "alone")), "and of the killed one nothing else is left"
    assert read_status(out).state == "at rest"
    assert do_toys(out, slides)[1] == [], "and a run that has it alone finds all done"


def test_runs_in_one_process_take_turns_and_a_failure_is_tried_once(slides, tmp_path):
    out = str(tmp_path / "out")
    Path(slides["S 0/ü"]).unlink()
    manifest = toy_manifest(dict(list(slides.items())[:4]))
    with toy_run(out, share=True) as one, toy_run(out, share=True) as two:
        turns = [iter(run.to_do(manifest.rows)) for run in (one, two)]
        records = [run.do_slide(next(turn)) for _ in range(2) for run, turn in zip((one, two), turns, strict=True)]
        assert [record.status for record in records] == ["failed", "done", "done", "done"]
        assert [set(turn) - {None} for turn in turns] == [set(), set()], "nobody tries the failed one again"
        with pytest.raises(OutputError, match="shares this folder; start this one with --share") as caught:
            do_toys(out, slides)
        assert caught.value.reason == "output_locked"
        status = read_status(out)
        assert (status.state, len(status.sharing)) == ("running", 2)
        assert status_text(status).count(f"process {os.getpid()}") == 2
        assert one.finish(manifest, records[::2]).slides_done == 3
        summary = two.finish(manifest, records[1::2])
        assert (summary.slides_done, summary.slides_failed, summary.slides_reused) == (3, 1, 2)
    assert do_toys(out, {"S 0/ü": slides["S 0/ü"]}, share=True)[0].slides_failed == 1, "a later one does"
    assert read_record(one.paths.record("S 1/ü")).status == "done"
    assert not (tmp_path / "out" / FOLDER / "session.json").exists()


def test_a_run_that_has_the_folder_alone_lets_nobody_share_it(slides, tmp_path, monkeypatch):
    monkeypatch.setattr("muse_core.cohort.home._ROUND_S", 0.05)
    out = str(tmp_path / "out")
    with toy_run(out), pytest.raises(OutputError) as caught:
        do_toys(out, slides, share=True)
    assert caught.value.reason == "output_locked"


def test_a_silent_run_s_slides_are_taken_over_and_it_leaves_them_alone(shelf):
    rows = toy_manifest({"A": "a", "B": "b"}).rows
    clock = Clock()
    held_up, other = (Sharing(shelf, "out", clock) for _ in range(2))
    held_up.join(ELSEWHERE)
    other.join(ELSEWHERE)
    assert held_up.session == other.session
    assert next(held_up.claimed(rows)).slide_id == "A"
    turn = other.claimed(rows)
    assert row_ids([next(turn), next(turn)]) == ["B", None]
    clock.now += SILENT_S - 1
    held_up.beat(replace(ELSEWHERE, slides=2))
    assert next(turn) is None, "it was heard of"
    clock.now += SILENT_S - 1
    assert next(turn) is None
    clock.now += 2
    assert next(turn).slide_id == "A"
    assert other.suspects == {"A"}
    with pytest.raises(SlideTakenError, match="another one does it now"):
        held_up.check("A")
    other.check("A")
    for slide_id in "AB":
        other.done(slide_id)
    assert set(turn) == {None}
    other.leave()
    assert shelf.read(f"{FOLDER}/session.json") is None, "the silent one does not count"
    with pytest.raises(OutputError, match="another one has taken over") as caught:
        next(held_up.claimed(rows))
    assert caught.value.reason == "output_lost"


def test_what_dead_runs_left_is_cleared_after_a_watch_and_their_slides_are_suspects(shelf):
    rows = toy_manifest({"A": "a", "B": "b"}).rows
    dead = Sharing(shelf, "out")
    dead.join(ELSEWHERE)
    assert next(dead.claimed(rows)).slide_id == "A"
    shelf.write(dead.member_file, json.dumps({**vars(ELSEWHERE), "beat": time.time() - 1e4}).encode())
    waited: list[float] = []
    fresh = Sharing(shelf, "out")
    fresh.join(ELSEWHERE, waited.append)
    assert len(waited) == 1
    assert fresh.is_first
    assert fresh.suspects == {"A"}
    assert fresh.session != dead.session


def test_other_settings_are_refused(shelf):
    one, two = Sharing(shelf, "out"), Sharing(shelf, "out")
    one.join(replace(ELSEWHERE, rules="weights 1"))
    two.join(replace(ELSEWHERE, rules="weights 2"))
    with pytest.raises(OutputError, match="other settings or weights") as caught:
        two.agree("weights 2")
    assert caught.value.reason == "output_mixed"
    two.agree("weights 1")


def test_a_claim_whose_answer_was_lost_is_the_caller_s(shelf, monkeypatch):
    """NFS makes the link, loses the answer, asks again and hears that the file is there."""
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lost)
    assert shelf.create("a/1", b"mine")
    assert not shelf.create("a/1", b"another's")
    assert shelf.read("a/1") == b"mine"
